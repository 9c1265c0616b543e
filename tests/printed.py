"""What a cell printed then and prints now: the same words, and the same numbers up to what another machine may round otherwise.

A number with decimals or a power of ten may differ by one unit of its last digit or by half a percent, a percentage by
one, a count of 1,000 or more by half a percent. Smaller counts, powers, names and words may not differ; spaces do not matter.
"""
import re

NUMBER = re.compile(r"(?<![\w.-])[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?%?(?![\w])")


def alike(then: str, now: str) -> bool:
    """Whether two outputs say the same."""
    words, numbers = ([find(text) for text in (then, now)] for find in (lambda text: NUMBER.sub("#", text).split(), NUMBER.findall))
    return words[0] == words[1] and all(map(close, *numbers))


def close(then: str, now: str) -> bool:
    """Whether two numbers, as printed, are equal up to rounding."""
    if then == now:
        return True
    values = [float(number.rstrip("%").replace(",", "")) for number in (then, now)]
    mantissa, _, power = then.rstrip("%").partition("e")
    if power != now.rstrip("%").partition("e")[2]:
        return False
    decimals = len(mantissa.partition(".")[2])
    unit = 10.0 ** (int(power or 0) - decimals) if decimals or power or then.endswith("%") else 0
    share = abs(values[0]) / 200
    return abs(values[0] - values[1]) <= max(1.01 * unit, share if unit or share >= 5 else 0)


class Printed(str):
    """A text that differs from another only where `alike` says so; nbval compares what it has sanitised with !=."""
    __hash__ = str.__hash__

    def __eq__(self, other):
        return alike(self, other)

    def __ne__(self, other):
        return not alike(self, other)
