"""The words that the built-in rules know: unwanted effects of medicines, and how badly they are felt."""

from __future__ import annotations

import re

__all__ = ["EFFECTS", "EFFECT_NAMES", "GAVE_UP", "MEDICAL_HELP", "NOT_AN_EFFECT", "STRONG", "SUSPECT"]

EFFECT_NAMES: dict[str, str] = {
    "nausea": r"nause\w+|queas\w+|sick to my stomach|upset stomach",
    "vomiting": r"vomit\w*|throwing up|threw up|throw up",
    "headache": r"head ?aches?|head was pounding|pounding head",
    "dizziness": r"dizz\w+|light ?-?headed\w*|vertigo",
    "weight gain": r"weight gain|gain(?:ed|ing)? (?:\w+ ){0,3}(?:weight|pounds|lbs?|kilos?|kg)|put on weight",
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

EFFECTS = re.compile(r"\b(?:" + "|".join(f"({pattern})" for pattern in EFFECT_NAMES.values()) + r")\b")

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
