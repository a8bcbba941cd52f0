"""Words to write prompts with, for an attacker who knows no caption: common ones, and those of Unicode names."""

import functools
import unicodedata
from collections import Counter
from typing import Literal

Vocabulary = Literal["common", "unicode"]

_NAMED = 1000
"""How many of the words of Unicode names are taken, the most frequent first."""

_COMMON = """
airplane ancient animal apple armchair art autumn baby bag ball balloon banana baseball basket bath beach bear bed
bench bicycle big bird black blanket blue board boat book bottle bowl box boy bread bridge bright brown building bus
butterfly cabinet cake camera candle car cards carpet castle cat chair child chocolate church city classic clean clock
close clouds coat coffee colorful couch country cow cozy cup curtain cute dark day deep deer desert design desk dish
dog door drawing dress drink eating elegant elephant empty evening eyes face family fancy farm fashion father field
fire fish flag flat floor flower flowers food football forest fork fresh front fruit full funny garden giraffe girl
glass golden grass gray green group guitar hair hall hand handmade happy hat head heart helmet high hill holding home
horse hot hotel house ice illustration indoor island jacket jeans jewelry jumping keyboard kitchen kite knife lady
lake lamp landscape laptop large leather leaves light lion little living lodge long looking luxury machine man map
market meal meat metal milk mirror model modern monkey moon morning mother motorcycle mountain museum music natural
near necklace new night nature ocean office old open orange outdoor oven painting pair palace paper park party path
pattern pen people person phone photo piano picture pillow pink pizza plane plant plate playing poster portrait pot
print purple quilt race rain red restaurant retro riding ring river road rock room rose round rug running sand
sandwich scarf scene school sea seat set sheep shelf ship shirt shoes shop shower sign silver simple sink sitting
skateboard ski sky sleeping small smiling snow sofa soft soup spoon sport spring square stack standing star statue
stone stop store street striped style suitcase summer sun sunglasses sunset surfboard sweater swimming table tall tea
team teddy tennis tent tie toilet top town toy traffic train tree trees truck umbrella vase vegetables vintage view
village walking wall watch water wave wedding white wild wind window wine winter woman wood wooden work yellow young
zebra
"""


@functools.cache
def words(vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return the words of a vocabulary, the same on every machine.

    Those of Unicode are of version 3.2, which Python keeps beside its own, in lower case, the most frequent first.

    Examples:
        >>> words("common")[:3], words("unicode")[:3]
        (('airplane', 'ancient', 'animal'), ('cjk', 'unified', 'syllable'))
    """
    if vocabulary == "common":
        return tuple(_COMMON.split())
    table = unicodedata.ucd_3_2_0
    names = (table.name(chr(code), "").lower() for code in range(0x10000))
    found = Counter(word for name in names for word in name.split() if word.isalpha() and len(word) > 1)
    # Ties by the word itself, so that the order is nobody's accident.
    return tuple(sorted(found, key=lambda word: (-found[word], word))[:_NAMED])
