"""What a cell printed then and prints now: the same words, and the same numbers up to rounding.

A number with decimals or a power of ten may differ by one unit of its last digit or by half a
percent, a percentage by one, a count of 1,000 or more by half a percent. Smaller counts, powers,
names and words may not differ; spaces do not matter. In HTML, where a heatmap shows every token,
influences may also differ by half a percent of the largest; shades and curves are drawn from them
and are not compared.
"""
import re

NUMBER = re.compile(r"(?<![\w.-])[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?%?(?![\w])")
DRAWN = re.compile(r"\b(?:style|d)=\"[^\"]*\"")


def alike(then: str, now: str) -> bool:
    """Whether two outputs say the same."""
    least = 0.0
    if then.lstrip().startswith("<"):
        influences = [
            abs(float(found))
            for found in re.findall(r"\binfluence ([+-]\d[\d.]*(?:e[+-]?\d+)?)", then)
        ]
        then, now, least = (
            DRAWN.sub("", then),
            DRAWN.sub("", now),
            max(influences, default=0.0) / 200,
        )
    if NUMBER.sub("#", then).split() != NUMBER.sub("#", now).split():
        return False
    return all(close(*pair, least) for pair in zip(NUMBER.findall(then), NUMBER.findall(now)))


def close(then: str, now: str, least: float = 0.0) -> bool:
    """Whether two numbers, as printed, are equal up to rounding, or to `least` where they have
    decimals."""
    if then == now:
        return True
    off = abs(value(then) - value(now))
    mantissa, _, power = then.rstrip("%").partition("e")
    decimals = len(mantissa.partition(".")[2])
    if decimals and off <= least:
        return True
    if power != now.rstrip("%").partition("e")[2]:
        return False
    unit = 10.0 ** (int(power or 0) - decimals) if decimals or power or then.endswith("%") else 0
    share = abs(value(then)) / 200
    return off <= max(1.01 * unit, share if unit or share >= 5 else 0)


def value(number: str) -> float:
    return float(number.rstrip("%").replace(",", ""))


class Printed(str):
    """A text that differs from another only where `alike` says so.

    Nbval compares what it has sanitised with !=.
    """
    __hash__ = str.__hash__

    def __eq__(self, other):
        return alike(self, other)

    def __ne__(self, other):
        return not alike(self, other)
