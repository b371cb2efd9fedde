"""Units of measurement: what they measure and how large they are, exactly.

Factors are the SI's definitions and the international yard and pound agreement of 1959.
"""

from __future__ import annotations

import re
from fractions import Fraction

__all__ = ["Unit", "find_unit", "is_loose_unit"]

Unit = tuple[str, Fraction]
"""(dimension, size in the dimension's base unit)."""

_F = Fraction


def _table() -> dict[str, Unit]:
    rows: list[tuple[str, str, int | Fraction]] = []

    def add(dimension: str, factor: int | Fraction, names: str) -> None:
        rows.extend((name, dimension, factor) for name in names.split())

    add("length", 1, "m meter meters metre metres")
    add("length", 1000, "km kilometer kilometers kilometre kilometres kms")
    add("length", _F(1, 100), "cm centimeter centimeters centimetre centimetres cms")
    add("length", _F(1, 10), "dm decimeter decimeters decimetre decimetres")
    add("length", _F(1, 1000), "mm millimeter millimeters millimetre millimetres")
    add("length", _F(1, 10**6), "um micrometer micrometers micron microns")
    add("length", _F(1, 10**9), "nm nanometer nanometers nanometre nanometres")
    add("length", _F(254, 10000), "inch inches")
    add("length", _F(3048, 10000), "ft foot feet")
    add("length", _F(9144, 10000), "yd yard yards")
    add("length", _F(1609344, 1000), "mi mile miles")
    add("time", 1, "s sec secs second seconds")
    add("time", 60, "min mins minute minutes")
    add("time", 3600, "h hr hrs hour hours")
    add("time", 86400, "day days")
    add("time", 7 * 86400, "week weeks")
    add("month", 1, "month months")
    add("month", 12, "yr yrs year years")
    add("time", _F(1, 1000), "ms millisecond milliseconds")
    add("mass", 1, "kg kilogram kilograms kgs")
    add("mass", _F(1, 1000), "g gram grams")
    add("mass", _F(1, 10**6), "mg milligram milligrams")
    add("mass", 1000, "tonne tonnes")
    add("mass", _F(45359237, 10**8), "lb lbs pound pounds")
    add("mass", _F(45359237, 16 * 10**8), "oz ounce ounces")
    add("volume", _F(1, 1000), "L liter liters litre litres")
    add("volume", _F(1, 10**6), "mL ml milliliter milliliters millilitre millilitres")
    add("speed", 1, "mps")
    add("speed", _F(1000, 3600), "kph kmh kmph")
    add("speed", _F(1609344, 3600000), "mph")
    add("angle", 1, "rad radian radians")
    add("degree", 1, "degree degrees deg")
    add("money", 1, "dollar dollars USD usd")
    add("money", _F(1, 100), "cent cents")
    add("euro", 1, "euro euros")
    add("quid", 1, "pounds_sterling")
    add("force", 1, "N newton newtons")
    add("energy", 1, "J joule joules")
    add("energy", 1000, "kJ kilojoule kilojoules")
    add("power", 1, "W watt watts")
    add("power", 1000, "kW kilowatt kilowatts")
    add("voltage", 1, "V volt volts")
    add("current", 1, "A amp amps ampere amperes")
    add("frequency", 1, "Hz hertz")
    add("pressure", 1, "Pa pascal pascals")
    add("temperature", 1, "K kelvin kelvins")
    add("unit", 1, "unit units")
    return {name: (dimension, _F(factor)) for name, dimension, factor in rows}


_UNITS = _table()
_LOOSE = frozenset("m s h g L N J W V A K min in")
"""Units that may be variables or words: taken for units only where nothing else fits."""

_WORDY_POWER = re.compile(r"(square|sq|cubic|cu)\.?\s*([A-Za-z]+)|([A-Za-z]+)\s+(squared|cubed)")
_PART = re.compile(r"([A-Za-z]+)(?:\^?\{?(-?\d+)\}?)?")


def is_loose_unit(name: str) -> bool:
    """Whether this unit's name may as well be a variable or a word."""
    return name in _LOOSE


def find_unit(text: str) -> Unit | None:
    """The unit that ``text`` ("km/h", "cm^2", "square feet", "meters per second") names, or None."""
    text = re.sub(r"\\(?:text|mathrm|operatorname|rm|mathit|mbox)\s*|[${}\\~]|\s*\.\s*$", " ", text).strip()
    if not text or len(text) > 60:
        return None
    wordy = _WORDY_POWER.fullmatch(text)
    if wordy:
        name, word = (wordy[2], wordy[1]) if wordy[1] else (wordy[3], wordy[4])
        return _power(name, 2 if word.startswith("sq") else 3)
    dimension, size = "", Fraction(1)
    for index, part in enumerate(re.split(r"\s*/\s*|\s+per\s+|\s+an?\s+", text)):
        for factor in re.split(r"\s*(?:\*|cdot)\s*|\s+", part.strip()):
            match = _PART.fullmatch(factor.replace(" ", ""))
            unit = _power(match[1], int(match[2] or 1)) if match else None
            if unit is None:
                return None
            if index:
                dimension, size = f"{dimension}/{unit[0]}", size / unit[1]
            else:
                dimension, size = (f"{dimension}*{unit[0]}" if dimension else unit[0]), size * unit[1]
    if dimension == "length/time":
        dimension = "speed"
    if dimension == "length^3":
        dimension = "volume"
    return dimension, size


def _power(name: str, exponent: int) -> Unit | None:
    unit = _UNITS.get(name) or _UNITS.get(name.lower())
    if unit is None and name == "in":
        unit = _UNITS["inch"]
    if unit is None or not 1 <= exponent <= 4:
        return None
    if exponent == 1:
        return unit
    dimension = "volume" if unit[0] == "length" and exponent == 3 else f"{unit[0]}^{exponent}"
    return dimension, unit[1] ** exponent
