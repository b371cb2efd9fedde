"""Word lists by which a deck is judged: of affect, and of what a directive asks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from heartloop.types import Directive

__all__ = ["AFFECT_WORDS", "DIRECTIVE_WORDS"]

_AFFECT = """
abhor abhorrent admire adore afraid aghast agitated agony alarm alarmed alarming alas amaze amazed
amazement amazing anger angered angrily angry anguish annoy annoyance annoyed annoying anxiety anxious
anxiously appalled appalling apprehensive ashamed astonish astonished astonishing astonishment astounded
astounding aversion awful baffled beaming bitter bitterly bittersweet bleak blissful bothered bothers
breathless bright brokenhearted calm cheer cheered cheerful cheerfully cheering cheers cheery concerned
crestfallen cringe crushed crushing cry crying dazzled dejected delight delighted delightful depressed
despair despairing desperate despise detest devastated disappointed disappointing disappointment
discouraged disgust disgusted disgusting disheartened dislike dislikes dismal dismay dismayed displeased
distaste distasteful distress distressed distressing dread dreadful dreading eager eagerly ecstasy
ecstatic elated elation enjoy enjoyed enjoying enraged enthusiasm exasperated exasperating excited
excitement exciting exhilarated exultant fascinated fear fearful fearing feel feeling feelings feels felt
foul fret frightened frightening frustrated frustrating frustration fume fumed fuming fun furious fury
gasp gasped glad gladly gloom gloomy grateful gratified gratitude grief grieve grieved grieving grim
grimace gross grumpy gutted happier happily happiness happy hate hated hateful heart heartache
heartbreaking heartbroken heartened hearts heavy hideous hope hopeful hopeless hoping horrid horrified
horrifying horror hurt hurts icky incensed indignant infuriated infuriating irate irked irks irritated
irritating irritation jolly jolt jolted joy joyful joyous jubilant jumpy keen laugh laughing livid loathe
loathing loathsome lonely love loved lovely low mad marvel marvellous marvelous melancholy merry miserable
misery misgivings mourn mournful nasty nausea nauseated nauseating nauseous nervous nervously offended
ouch outrage outraged outrageous overjoyed pain pained painful panic panicked panicking panicky peeved
petrified pity pleasant pleased pleasing pleasure pride proud queasy rage raging rapture regret rejoice
relief relieved remorse repelled repellent repugnant repulsed repulsion repulsive resent resentful
revolted revolting revulsion rotten sad sadden saddened saddens sadder sadly sadness scare scared scares
scary seething shake shaken shaking shame shiver shivering shock shocked shocking shudder shuddering sick
sicken sickened sickening sigh sighed sighing smile smiling sob sobbing sore sorrow sorrowful sorry sour
staggered staggering stale startle startled startling stomach stressed stunned stunning sulk sunny
surprise surprised surprises surprising surprisingly tears terrible terrified terrifies terrifying terror
thrill thrilled thrilling tremble trembling troubled ugh uncomfortable uneasy unhappy unnerved unnerving
unpleasant unsettled unsettling upset upsetting vexed vexing vile warm warmly wary weep weeping whoa wince
wonder wonderful wonderfully worried worries worry worrying worse wow wretched yuck zest
"""

AFFECT_WORDS: frozenset[str] = frozenset(_AFFECT.split())
"""Words that carry, or name, an emotion. None may stand in a twin."""

DIRECTIVE_WORDS: Mapping[Directive, re.Pattern[str]] = MappingProxyType(
    {
        Directive.CHECK: re.compile(
            r"\b(?:(?:re|double-)?check(?:s|ing)?|verify|review|inspect(?:ion)?|examine|audit|test|search|hunt|"
            r"comb|scan|confirm|make certain|(?:re)?trace|proofread|(?:re)?read|look(?:ing)?|"
            r"go (?:over|through|back)|walk|errors?|mistakes?|slips?|faults?|flaws?)\b"
        ),
        Directive.ANOTHER_WAY: re.compile(
            r"\b(?:another|different(?:ly)?|other|new|fresh|afresh|second|alternat(?:iv)?e|separate|unlike|anew|"
            r"else|instead|unrelated|independent|opposite|unfamiliar|unused|untried|untested|changed?|switch|"
            r"distinct|one of (?:those|them)|not (?:used|tried))\b"
        ),
    }
)
"""What a phrase with the directive must contain (lower case): a first, mechanical look, no more."""
