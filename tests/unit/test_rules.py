from __future__ import annotations

import pytest

from edgekit.errors import GateError
from edgekit.rules import DEFAULTS, parse_rules, rules_for


def rule(text):
    return parse_rules([text])[-1]


@pytest.mark.parametrize(
    ("text", "baseline", "allowed"),
    [
        ("size:+5%", 200.0, 10.0),
        ("size:5%", 200.0, 10.0),
        ("accuracy:-0.5pt", 0.9, 0.005),
        ("accuracy:-1%", 0.9, 0.009),
        ("parity.sqnr_db:-3", 40.0, 3.0),
        ("instructions:+.5%", 1000.0, 5.0),
        ("parity.max_abs:+1e-4", 1e-6, 1e-4),
    ],
)
def test_a_bound_in_the_unit_of_the_figure(text, baseline, allowed):
    assert rule(text).allowed(baseline) == pytest.approx(allowed)


def test_a_number_without_sign_is_a_limit():
    assert rule("parity.max_abs:1e-4").unit == "limit"


def test_accuracy_may_lose_half_a_point_of_a_share_and_a_hundredth_of_else():
    own = rule("accuracy")
    assert own.allowed(0.9, is_share=True) == pytest.approx(0.005)
    assert own.allowed(4.0) == pytest.approx(0.04)


def test_the_last_rule_on_a_metric_holds():
    rules = parse_rules(["size:+1%", "int8.*=size:+2%", "fp16.*=size:+9%"])
    for artifact, text in (("int8.onnx", "int8.*=size:+2%"), ("fp32.onnx", "size:+1%")):
        [found] = [r for r in rules_for(artifact, rules) if r.metric == "size"]
        assert found.text == text
    assert {r.metric for r in rules_for("x", rules)} == {d.partition(":")[0] for d in DEFAULTS}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no rule"),
        ("latency.p50 +5%", "is no rule"),
        ("latency:+5%", "unknown metric 'latency'"),
        ("size", "by how much"),
        ("size:-5%", "gets worse by +"),
        ("accuracy:+1pt", "gets worse by -"),
        ("accuracy:0.9", "of what"),
        ("parity:1", "holds or not"),
        ("size:+5%%", "is no rule"),
    ],
)
def test_what_is_no_rule_is_refused(text, said):
    with pytest.raises(GateError, match=said.replace("+", r"\+")) as caught:
        parse_rules([text])
    assert caught.value.hint
