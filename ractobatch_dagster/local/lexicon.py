"""The words that the built-in rules know: praise and complaint, and the unwanted effects of medicines."""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = [
    "COMPLAINT",
    "EFFECTS",
    "EFFECT_NAMES",
    "GAVE_UP",
    "ILLNESS",
    "MEDICAL_HELP",
    "NOT_AN_EFFECT",
    "PRAISE",
    "STRONG",
    "SUSPECT",
    "VALENCE",
    "effect_name",
]

ILLNESS = (
    "ache", "aches", "acne", "addicted", "addiction", "anxiety", "anxious", "attack", "attacks",
    "bleeding", "cancer", "cramps", "depressed", "depressing", "depression", "disease", "disorder",
    "fear", "hell", "illness", "infection", "infections", "insomnia", "lonely", "migraine",
    "migraines", "pain", "painful", "pains", "panic", "problem", "problems", "severe", "shock",
    "sick", "stress", "suffer", "suffered", "suffering", "symptom", "withdrawal",
)  # fmt: skip
"""Words that tell of an illness rather than of how someone likes what is done about it."""

VALENCE = {
    "beware": -2.5,
    "bloated": -1.0,
    "cleared": 2.0,
    "constipation": -1.0,
    "cured": 2.5,
    "diarrhea": -1.0,
    "discontinued": -1.5,
    "dizzy": -1.2,
    "effective": 2.0,
    "gained": -1.0,
    "gone": 1.2,
    "headaches": -0.7,
    "improved": 1.9,
    "ineffective": -2.5,
    "insane": -1.5,
    "lifesaver": 3.5,
    "manageable": 0.8,
    "miracle": 3.0,
    "nausea": -1.2,
    "nauseous": -1.3,
    "nothing": -0.8,
    "poison": -3.0,
    "quit": -1.5,
    "recommend": 2.0,
    "relief": 2.0,
    "stopped": -0.8,
    "switched": -0.6,
    "tolerable": 0.8,
    "unfortunately": -1.5,
    "useless": -2.5,
    "vomiting": -1.4,
    "waste": -2.0,
    "worked": 1.5,
    "works": 1.8,
    "worse": -2.5,
    "worst": -3.1,
}
"""What such words say in a review, on VADER's scale from -4 to 4."""

PRAISE = re.compile(
    r"\b(?:(?:saved|changed|gave me back|given me) (?:my )?life|life ?-?(?:saver|saving|changing)|"
    r"(?:highly|definitely|would|totally|really|strongly|do) recommend|(?:i|absolutely|really) love|"
    r"loved? (?:it|this|my)|"
    r"work(?:s|ed|ing)? (?:\w+ )?(?:great|well|wonder\w*|perfect\w*|amazing\w*|fast|immediately|like|for me|good|"
    r"best|quick\w*|better)|"
    r"(?:no|zero|without|few|minimal|not had|haven'?t had|any) (?:\w+ )?(?:side ?-?effects|problems|issues|"
    r"complaints)|so far so good|very happy|happy with|"
    r"(?:huge|big|great|major|real|wonderful|drastic|noticeable|significant) (?:difference|improvement|change|"
    r"relief)|wonder(?:s|ful)?|god ?-?send|blessing|miracle|"
    r"best (?:\w+ ){0,4}(?:ever|drug|med\w*|pill|birth control|thing|decision)|pain ?-?free|"
    r"(?:anxiety|pain|acne|depression|symptom|migraine|headache|panic)\w* (?:\w+ )?(?:(?:is|are|was|were|has|have) "
    r")?(?:gone|cleared|disappeared)|thank(?:s|ful)?|back to (?:normal|my ?self)|"
    r"feel (?:\w+ )?(?:better|great|normal|amazing|good|like myself)|"
    r"help(?:s|ed|ing)? (?:\w+ )?(?:me|with|my|so|tremendously|immensely|lot|greatly)|easy to|worth it|"
    r"clear(?:ed|ing)?|went away|10/10|effective)\b"
)
"""Praise that single words do not show."""

COMPLAINT = re.compile(
    r"\b(?:(?:did(?:n'?t| not)|does(?:n'?t| not)|do(?:n'?t| not)|not|never|hasn'?t|wasn'?t) (?:\w+ ){0,2}"
    r"(?:work\w*|help\w*|recommend|effective|do anything|worth|notice)|did nothing|"
    r"no (?:relief|effect|help|difference|improvement|change|results?|better)|useless|ineffective|waste|worst|"
    r"stay away|beware|poison|(?:do not|don'?t) (?:take|use|get|waste)|never (?:again|take|use|taking)|"
    r"(?:stopp?(?:ed|ing)|quit) (?:taking|using|it|this)|want(?:ed)? (?:it|this) (?:out|removed)|"
    r"(?:get|got|getting|taken|taking|come|had|have|having) (?:it |this )?(?:off|out|removed)|regret\w*|hate[ds]?|"
    r"horrible|terrible|awful|nightmare|wors(?:e|ened)|gave up|give up|disappoint\w*|"
    r"wish i (?:had ?n|never|hadn)|not worth|ruined|switch(?:ed|ing)|hospital|emergency|er|discontinu\w+|"
    r"side effects (?:\w+ )?(?:were|are|was|is) (?:\w+ )?(?:bad|horrible|terrible|awful|too|severe|unbearable)|"
    r"made me (?:\w+ )?(?:sick|feel|worse|want|crazy|so|very)|caus(?:ed|es|ing))\b"
)
"""Complaint that single words do not show."""

EFFECT_NAMES: dict[str, str] = {
    "nausea": r"nause\w+|queas\w+|sick to my stomach|upset stomach",
    "vomiting": r"vomit\w*|throwing up|threw up|throw up",
    "headache": r"head ?aches?|head was pounding|pounding head",
    "dizziness": r"dizz\w+|light ?-?headed\w*|vertigo",
    "weight gain": r"weight gain|gain(?:ed|ing)? (?!zero|no )(?:\w+ ){0,3}(?:weight|pounds|lbs?|kilos?|kg)"
    r"|put on weight",
    "fatigue": r"fatigued?|tired(?:ness)?|exhaust(?:ed|ion)|letharg\w+|no energy|sluggish",
    "drowsiness": r"drows\w+|sleepy|sleepiness|grogg\w+",
    "dry mouth": r"dry mouth|cotton ?mouth|mouth (?:is|was) (?:so |very )?dry",
    "constipation": r"constipat\w+",
    "diarrhea": r"diarrh?o?ea|loose stools?",
    "stomach pain": r"stomach (?:pains?|aches?|cramp\w*|upset|issues|problems)|abdominal (?:pain|cramp\w*)",
    "bloating": r"bloat\w+",
    "gas": r"gass?y|flatulence|burping",
    "heartburn": r"heart ?burn|acid reflux",
    "loss of appetite": r"(?:loss of|lost my|no|decreased) appetite",
    "increased appetite": r"increased? (?:in )?appetite|hungry all the time|always hungry|constant hunger",
    "mood swings": r"mood ?swings?|moody|moodiness|emotional wreck",
    "irritability": r"irritab\w+|short temper\w*",
    "anger": r"rage|angry|anger",
    "anxiety": r"anxiety|anxious|panic attacks?",
    "depression": r"depress(?:ed|ion)",
    "crying": r"cry(?:ing)? (?:all|for|over|spells?|every)|crying",
    "suicidal thoughts": r"suicidal\w*(?: thoughts)?",
    "brain fog": r"brain fog|fogg(?:y|iness)|spac(?:y|ey)|zombie",
    "memory loss": r"memory (?:loss|problems?|issues)|forgetful\w*",
    "confusion": r"confus(?:ed|ion)|disoriented",
    "hallucinations": r"hallucinat\w+",
    "nightmares": r"night ?mares?|(?:vivid|weird|crazy|bad|strange) dreams?",
    "insomnia": r"insomnia|(?:trouble|difficulty|problems?) (?:falling a?sleep|sleeping)"
    r"|(?:can'?t|cannot|couldn'?t|unable to) sleep|sleepless\w*",
    "sweating": r"sweat\w*",
    "hot flashes": r"hot flas?h\w*",
    "chills": r"chills",
    "fever": r"fever",
    "rash": r"rash(?:es)?|hives",
    "itching": r"itch\w*",
    "swelling": r"swell\w*|swollen|puffy",
    "acne": r"acne|break(?:ing)? ?outs?|broke out|pimples?",
    "hair loss": r"hair (?:loss|thinning|fall\w*)|(?:lost|losing|thinning) (?:my |of )?hair",
    "dry skin": r"dry skin|(?:skin|lips) (?:is|was|are|were|got) (?:so |very )?dry|chapped lips|dry lips",
    "burning": r"burn(?:s|ed|ing)?",
    "redness": r"redness",
    "blurred vision": r"blurr?(?:y|ed) (?:vision|eye\w*)|vision (?:was|is|got) blurr\w+",
    "ringing in the ears": r"tinnitus|ringing in (?:my |the )?ears",
    "palpitations": r"palpitations?|(?:racing heart|heart (?:was |is )?rac\w+)|rapid heart\w*|fast heart\w*",
    "chest pain": r"chest pains?",
    "shortness of breath": r"short(?:ness)? of breath|trouble breathing|(?:can'?t|couldn'?t) breathe?",
    "tremor": r"tremors?|shak(?:y|es|ing)|jitter\w*",
    "muscle pain": r"muscle (?:pains?|aches?|cramp\w*|spasms?)|sore muscles",
    "joint pain": r"joint pains?|(?:aching|painful|sore) joints",
    "numbness": r"numb(?:ness)?|tingl\w+",
    "restless legs": r"restless legs?",
    "low libido": r"(?:low|lower|lost|no|loss of|decreased) (?:my |in )?(?:libido|sex ?drive)|libido (?:is|was) gone",
    "sexual dysfunction": r"erectile dysfunction|(?:can'?t|unable to|difficulty) orgasm\w*|sexual side effects?",
    "spotting": r"spotting|breakthrough bleeding",
    "heavy bleeding": r"(?:heavy|constant|non ?-?stop) (?:bleeding|periods?)|bled|bleeding",
    "cramps": r"cramps?|cramping",
    "breast tenderness": r"(?:sore|tender) breasts?|breast (?:tenderness|pain|soreness)",
    "bad taste": r"(?:bad|metallic|bitter|horrible|awful|nasty) (?:after ?)?taste|tastes? (?:bad|awful|horrible)",
    "sore throat": r"sore throat",
    "cough": r"cough\w*",
    "yeast infection": r"yeast infections?",
    "bruising": r"bruis\w+",
    "seizure": r"seizures?",
    "fainting": r"faint(?:ed|ing)|passed out",
    "dehydration": r"dehydrat\w+",
    "withdrawal": r"withdrawals?(?: symptoms)?|brain zaps?",
    "flu-like symptoms": r"flu[- ]like(?: symptoms)?",
}
"""Unwanted effects: how they are named, and how people write them."""

EFFECTS = re.compile(rf"\b(?:{'|'.join(EFFECT_NAMES.values())})\b")
"""Any of them. It has no groups: without them the search is three times as fast."""


@lru_cache(maxsize=1024)
def effect_name(text: str) -> str:
    """The name of an effect that `EFFECTS` has found."""
    return next(name for name, pattern in EFFECT_NAMES.items() if re.fullmatch(pattern, text))


SUSPECT = frozenset(
    {
        "acne", "anger", "anxiety", "burning", "cough", "cramps", "depression", "fever", "headache",
        "heartburn", "heavy bleeding", "hot flashes", "insomnia", "itching", "joint pain", "mood swings",
        "muscle pain", "rash", "redness", "restless legs", "seizure", "sore throat", "suicidal thoughts",
        "yeast infection", "swelling",
    }
)  # fmt: skip
"""What is as often the illness itself; it counts only where the text blames the medicine."""

NOT_AN_EFFECT = re.compile(
    r"\b(?:no|not|never|without|n'?t|didn'?t|don'?t|haven'?t|hasn'?t|doesn'?t|isn'?t|wasn'?t|zero|nor|none|"
    r"free of|lack of|little to no|instead of|rather than|"
    r"help(?:s|ed|ing)?|reliev\w+|relief|cure[sd]?|reduc\w+|prevent\w*|treat\w*|stops?|eas(?:es|ed)|control\w*|"
    r"rid of|less|fewer|for my|for the|for|suffer\w*|diagnosed|history|struggl\w+|due to|because of my|"
    r"clear\w*|worried about|afraid of|gone|before)\b"
)
"""Said shortly before an effect, it says that there was none, or that it was there without the medicine."""

GAVE_UP = re.compile(
    r"\b(?:stopp?(?:ed|ing) (?:taking|using|it|this|the|after)|(?:had|have|having|going|want\w*) to (?:stop|quit)|"
    r"quit (?:taking|using|it)|discontinu\w+|never (?:again|take|touch|use)|"
    r"(?:took|taken|take|taking|got|getting|come|came|went) (?:it |me |myself |this )?(?:off|out)\b|"
    r"switch(?:ed|ing) (?:to|back)|removed|threw (?:it|them) away|won'?t (?:be )?tak\w+|"
    r"will (?:not|never) (?:take|use|be tak))"
)
"""The writer has given up the medicine."""

MEDICAL_HELP = re.compile(
    r"\b(?:hospital\w*|emergency|e\.?r\.?|ambulance|urgent care|911|passed out|seizures?|suicid\w+|"
    r"allergic reaction)\b"
)
"""The writer needed medical help."""

STRONG = re.compile(
    r"\b(?:severe\w*|extreme\w*|horrible|horribl[ey]|terribl[ey]|awful\w*|unbearable|intense\w*|excruciating|"
    r"worst|violent\w*|miserable|debilitating|hell|nightmare|bad(?:ly)?|constant\w*|all (?:day|night)|every ?day|"
    r"(?:can'?t|cannot|couldn'?t) (?:\w+ )?(?:work|function|eat|sleep|move|walk|drive|get up|think))\b"
)
"""Daily life was disturbed."""
