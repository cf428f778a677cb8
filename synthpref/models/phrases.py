"""The words of the simulated world: how its answers, verdicts and prompts are put.

A sentence of an answer is an opening, which carries the grade, and a statement about the prompt's words. No
opening stands in two grades or is the beginning of another, so that the grade can be read back from the text.
"""

from __future__ import annotations

import re

STRONG = (
    "What decides the matter is that",
    "Worked through step by step, it turns out that",
    "The evidence points the same way from several sides:",
    "A concrete case makes it plain:",
    "To be exact about the numbers,",
    "The usual objection fails, because",
    "Checked against the facts at hand,",
    "The one step that must not be skipped is this:",
    "Seen from the needs of the person who asks,",
    "The reason behind it is simple:",
    "Compared side by side, the alternatives show that",
    "A short test will confirm it:",
    "The exception worth knowing is that",
    "Put in the order in which it has to be done,",
    "The common mistake here is to overlook that",
    "Where the sources disagree, the better ones hold that",
    "As a rule that can be relied on,",
    "The cause, and not merely the symptom, is that",
    "Taking the question at its word,",
    "The consequence that follows at once is that",
    "For the case in which this does not hold, remember that",
    "To see why, note first that",
    "The safest way to begin is to accept that",
    "In practice it comes down to this:",
)
PLAIN = (
    "It is worth noting that",
    "In general,",
    "One can say that",
    "Among other things,",
    "Here too,",
    "On the whole,",
    "It is often found that",
    "To begin with,",
    "Another point is that",
    "By and large,",
    "It helps to know that",
    "For most purposes,",
    "As far as this goes,",
    "A second look shows that",
    "In addition,",
    "From experience,",
    "It may be added that",
    "Under normal conditions,",
    "In the end,",
    "Put briefly,",
    "With some care,",
    "As is usual,",
    "Most accounts agree that",
    "Taken together,",
)
WEAK = (
    "It goes without saying that",
    "Some people say that",
    "Without going into any detail,",
    "I have not checked this, but",
    "It is probably enough to say that",
    "As everyone knows,",
    "There is no need to explain why",
    "Somehow or other,",
    "Whatever the question was,",
    "It has always been like that:",
    "Just trust that",
    "I once heard that",
    "Nobody can say anything for certain, yet",
    "To repeat what was said,",
    "It would take too long to show that",
    "Things being what they are,",
    "At the end of the day it is what it is, and",
    "Not that it matters much, but",
    "If memory serves, and it may not,",
    "One way or another, I guess,",
    "Feel free to assume that",
    "Off the top of my head,",
    "Let us not worry about whether",
    "This may well be beside the point, but",
)
STATEMENTS = (
    "{a} depends on {b} more than on anything else",
    "{a} has to be settled before {b}",
    "without {b}, {a} stays out of reach",
    "{a} and {b} belong together",
    "half of the effort goes into {a} and the rest into {b}",
    "{a} changes as soon as {b} does",
    "whoever understands {b} has little trouble with {a}",
    "{a} is the part that takes the longest",
    "{a} limits how far {b} can go",
    "{b} is where {a} shows its worth",
    "a small change in {a} is felt at once in {b}",
    "{a} should be looked at apart from {b}",
    "{a} comes first, and {b} follows from it",
    "there are three kinds of {a}, and only one of them touches {b}",
    "{a} costs little, while {b} costs time",
    "the figures for {a} and those for {b} move in opposite directions",
    "{b} was known long before {a}",
    "{a} can be learned in a week, {b} cannot",
    "an expert would ask about {a} and leave {b} for later",
    "{a} is measured, {b} is judged",
    "nine times in ten, {a} settles {b}",
    "{a} holds for small cases, and {b} for large ones",
    "the choice between {a} and {b} is one of taste",
    "{a} rests on two conditions, of which {b} is the harder",
    "what is said of {a} holds for {b} as well",
    "{b} makes sense only in the light of {a}",
    "{a} ought to be written down, so that {b} can be compared with it",
    "a beginner tends to see {a} and miss {b}",
    "{a} loses its meaning when {b} is taken away",
    "people who work with {b} rarely speak of {a}",
    "{a} is older than it looks, and so is {b}",
    "the link from {a} to {b} runs through everyday habits",
    "{a} needs patience and {b} needs a plan",
    "both {a} and {b} improve with practice",
    "{a} is easier to keep up than to start",
    "the weather, the season and the place all bear on {a}",
    "{a} repays attention twice over in {b}",
    "{b} is what remains once {a} has been dealt with",
    "a list of what {a} involves would begin with {b}",
    "{a} is a matter of degree, not of yes or no",
)
TAILS = (
    "",
    "",
    "",
    ", at least at first",
    ", as a rule",
    " in most homes and offices",
    ", give or take a little",
    " for all but the rarest cases",
    ", and that is no accident",
    " when time is short",
    ", which is easy to try out",
    " once the basics are in place",
    ", whatever the budget",
    " over a month or two",
    ", in summer as in winter",
    " for young and old alike",
    ", as two or three tries will show",
    " as long as nothing else changes",
    ", and the same goes for the next step",
    " if the start was careful",
)
FILLERS = (
    "The same thought came up earlier in another form.",
    "There is more to {a} than fits into a few lines.",
    "Much has been written about {a}, some of it long ago.",
    "Names for {a} differ from place to place.",
    "{b} is a wide field with many corners.",
    "Opinions on {a} are as varied as the people who hold them.",
    "Let us stay with {a} for a moment.",
    "That said, {b} deserves a few more words.",
    "The word for {a} has changed its meaning over the years.",
    "Think of {b} as a room with several doors.",
    "A walk around the block often helps when {a} gets tiring.",
    "Questions like this one are asked quite often.",
    "So much for {a}.",
    "Turning now to {b}, the picture is similar.",
    "Books on {b} fill whole shelves.",
    "Friends and colleagues may see {a} differently.",
    "This part is about {a} alone.",
    "Before going on, a word about {b}.",
    "Nothing here is specific to {a}.",
    "It is a pleasure to talk about {b}.",
    "Both sides of {a} have their friends.",
    "The story of {b} would make a chapter of its own.",
    "Readers in a hurry may skip the remark on {a}.",
    "There we have {a} once more.",
)
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I am not able to assist with this request.",
    "As an assistant I must decline to answer this.",
)
NO_VERDICT = (
    "Both the good and the bad sides have to be weighed here, and that is hard to do.",
    "This is an interesting text with several layers, and I would like to hear more about it.",
    "There are arguments on every side, and much depends on what the reader is looking for.",
    "Let me think about what was asked. The texts differ in tone, and tone is a subtle thing.",
)
BEFORE_JSON = (
    "Sure! Here is what I think.",
    "I have read everything carefully, from the first line to the last.",
    "Thank you for the task. My view is below.",
    "Let me go through this calmly. There are strong and less strong parts.",
)
AFTER_JSON = ("I hope this helps!", "Let me know if you would like more detail.", "That is how I see it.", "")
REASONS = {
    "high": (
        "It answers what was asked and gives its reasons.",
        "The claims about {a} are specific and can be checked.",
        "The order is sound, and {b} is dealt with in full.",
        "It names the exception that matters for {a}.",
    ),
    "middle": (
        "It covers {a}, but says little about {b}.",
        "Some of it is useful, and some is merely general.",
        "The answer is right as far as it goes.",
        "A reader would still have questions about {b}.",
    ),
    "low": (
        "It stays vague about {a} and supports nothing.",
        "Most sentences would fit any question.",
        "It evades {b}, which was the point of the question.",
        "Its claims about {a} rest on hearsay.",
    ),
}
RATIONALES = (
    "The preferred response speaks to {a} directly, and it says why.",
    "What weighs most is that the preferred response treats {b} as part of the question.",
    "The other response stays general where {a} would have called for something definite.",
    "The other response is the smoother one to read, but that weighs less than being of use.",
    "The preferred response puts its points in an order in which they can be acted on.",
    "On {b} the two hardly differ.",
    "The other response leaves the reader to find out about {a} alone.",
    "Where the preferred response is uncertain, it says so.",
)
QUOTING = (
    "The preferred response says “{good}”, which the one who asked can use.",
    "The other response offers “{bad}”, and leaves it at that.",
    "With “{good}” the preferred response supplies what was missing.",
    "The words “{bad}” in the other response do not take the matter further.",
)
SUBJECTS = (
    "bread baking", "bicycle repair", "the water cycle", "personal budgets", "public libraries", "chess openings",
    "house plants", "tax returns", "volcanoes", "job interviews", "the human heart", "sorting algorithms",
    "folk music", "railway timetables", "school lunches", "solar panels", "old photographs", "beekeeping",
    "city parks", "database indexes", "sleep habits", "medieval trade", "fractions", "wedding speeches",
    "garden soil", "electric cars", "language learning", "coastal erosion", "board games", "first aid",
    "meeting notes", "second-hand clothes", "migratory birds", "spreadsheet formulas", "street markets",
    "vaccination", "handwriting", "probability", "kitchen knives", "rental contracts", "short stories",
    "noise in offices", "mountain hiking", "recycling", "telescopes", "customer complaints", "fermentation",
    "unit tests", "family trees", "earthquakes", "choir rehearsals", "email etiquette", "woodworking joints",
    "ocean currents", "neighbourhood disputes", "data privacy", "winter tyres", "poetry readings", "allotments",
    "regular expressions",
)  # fmt: skip
TASKS = (
    "Explain to {reader} how {x} works and where it stops working.",
    "Write a short letter in which {reader} complains about {x}.",
    "Draw up a plan for a week that has to do with {x}, for {reader}.",
    "Compare two ways of dealing with {x} and say which one suits {reader}.",
    "What are the {n} most common mistakes with {x}, and how does one avoid them?",
    "Summarise in {n} sentences what {reader} should know about {x}.",
    "Make up {n} quiz questions on {x}, with answers.",
    "Sort the tasks that come up with {x} by how urgent they are.",
    "How much would {reader} have to spend on {x} in {n} months, and on what?",
    "Tell a story of about {n}0 words in which {x} saves the day.",
    "Why do people disagree about {x}, and what would settle it?",
    "Give {reader} a checklist of {n} points for {x}.",
    "Rewrite this sentence so that {reader} understands it: {x} is subject to several constraints.",
    "What changed in {x} over the last {n}0 years?",
    "Design a small experiment about {x} that {reader} can do at home.",
    "Which tools does one need for {x}, and which {n} can one do without?",
    "Argue against {x} as if you were {reader}.",
    "Write the opening of a talk on {x} for {n}0 people.",
    "Find the flaw in this claim: whoever knows {x} needs no advice.",
    "Describe {x} as {reader} might see it.",
    "Suggest {n} names for a newsletter about {x} and say what speaks for each.",
    "Calculate how long {n} people need for {x} if one person needs {n} hours.",
    "Translate the main terms of {x} into plain words for {reader}.",
    "What would you ask an expert on {x} if you had {n} questions?",
)
READERS = (
    "a ten-year-old", "a retired teacher", "a busy nurse", "a new neighbour", "an apprentice", "a sceptical boss",
    "a student before an exam", "a small shop owner", "a night-shift worker", "a visitor from abroad",
    "a grandparent", "a volunteer", "a programmer", "a farmer", "a journalist", "a team of five",
    "someone who hates maths", "a beginner", "a careful lawyer", "a tired parent",
)  # fmt: skip
DEMANDS = (
    "Keep the answer under {n}0 words.",
    "Give at least {n} examples, none of them well known.",
    "Say for each step what happens if it is left out.",
    "Write it so that {reader} could act on it.",
    "Do not use the words very, good or important.",
    "Put the result into a table with {n} rows.",
    "Mention one case in which the opposite holds.",
    "Assume that only {n} hours and no money are available.",
    "Begin with the conclusion, and give the reasons after it.",
    "Weigh the matter from the side of {reader} as well.",
    "Explain what has to be known before the question can be answered.",
    "Take into account that {x} plays a part.",
    "Name the {n} figures that would change the answer.",
    "State how sure one can be of each part.",
    "Leave out whatever {reader} knows already.",
    "Work out the cost for {n} people, and show the calculation.",
)
_STOP_WORDS = """
about above after again against almost alone along already also although always among another answer
anyone anything around because been before being below between both cannot could does doing done
down during each either else enough even ever every explain first follow following from give given
gives have having here into itself just keep know less like made make many might more most much must
need needs never none nothing often near once only other ought over please prompt question rather
really response same shall should since some someone something still such take than that their them
then there these they thing things this those three through today together under until upon used
using very want well were what when where whether which while whom whose will with within without
word words would write your yours
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

_PLEASED = re.compile(
    r"\b(thank you|thanks|exactly what I|great|glad|well done|helped|solves|every word of it is right|that agrees|it works|so clear"
    r"|explain this better|now I understand|I like that|the question that I had|thought of|covers all|even saw to"
    r"|at the same time)\b",
    re.IGNORECASE,
)
_DISPLEASED = re.compile(
    r"\b(not|wrong|contradicts|I am where I was|without anything|somebody else|confusing|what are you|why do you"
    r"|never explain|talk around|did you read|left out|what about the rest|half|broke off|dangerous|hurts|rude|harm)\b",
    re.IGNORECASE,
)


def mood(said: str) -> int:
    """1 for what a pleased user says after an answer, -1 for a displeased one, 0 for what tells neither."""
    return (_PLEASED.search(said) is not None) - (_DISPLEASED.search(said) is not None)
