"""Numbers behind the pictures: finite or refused, as shares of a scale."""
import math



def finite(value, what) -> float:
    """`value`; raises ValueError, which names `what`, where it is NaN or infinite."""
    if not math.isfinite(value):
        raise ValueError(f"{what} is {value}, not a finite number: "
                         "check the gradients and the damping")
    return float(value)


def largest(influences, what="a token's influence") -> float:
    """The largest absolute value, 0 where there is none. Raises ValueError on NaN or inf."""
    return max((abs(finite(value, what)) for value in influences), default=0.0)


def largest_of_tokens(entries) -> float:
    """The largest |influence| of a token of some entries, in nats; ValueError as `largest`."""
    return largest(token["influence"] for entry in entries for token in entry["tokens"])


def share_of(value, scale) -> float:
    """`value` as a share of the scale, within [-1, 1]; 0 where the scale is 0."""
    return min(max(value / scale, -1.0), 1.0) if scale else 0.0
