"""What counts as the same print on another machine, and what does not."""
import pytest
from printed import alike


@pytest.mark.parametrize(
    "then, now",
    [
        ("λ = 0.00611  f  0.93", "λ = 0.00612 f 0.94"),
        ("2,537 raise f", "2,543 raise f"),
        ("69% [45%, 101%]", "70% [45%, 100%]"),
        ("|∇J| = 4e-04", "|∇J| = 5e-04"),
        ("-0.00", "0.00"),
        ("3863 times", "3866 times"),
        ("+12.345", "+12.40"),
    ],
)
def test_rounding_is_forgiven(then, now):
    assert alike(then, now) and alike(now, then)


@pytest.mark.parametrize(
    "then, now",
    [
        ("0.93", "0.95"),
        ("+0.05", "-0.05"),
        ("2,537 raise f", "2,600 raise f"),
        ("7 of 11", "8 of 11"),
        ("69%", "72%"),
        ("below 1e-5", "below 1e-6"),
        ("story-0324", "story-0325"),
        ("(24, 256)", "(24, 257)"),
        ("✓ equal", "✗ equal"),
        ("0.5", "0.5 0.6"),
        ("EK-FAC 0.93", "K-FAC 0.93"),
        ("1.0", "nan"),
    ],
)
def test_another_result_is_not(then, now):
    assert not alike(then, now) and not alike(now, then)


HEATMAP = ('<p><span title="influence {} nats" style="opacity:{}">the</span> '
           '<span title="influence {} nats">egg</span></p>')


def test_a_heatmap_is_measured_on_its_largest_value():
    then = HEATMAP.format("+0.128", "1.0", "-6.43e-06")
    assert alike(then, HEATMAP.format("+0.128", "0.9", "+1.2e-05")) and alike(
        then, HEATMAP.format("+0.1284", "1.0", "-6.39e-06")
    )
    assert not alike(then, HEATMAP.format("+0.131", "1.0", "-6.43e-06"))
    assert not alike(then, HEATMAP.format("+0.128", "1.0", "-0.0010"))
    assert not alike(then, then.replace("egg", "eggs"))
