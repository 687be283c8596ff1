"""The bench of costs names the bars that its figures miss."""

from experiments.bench.costs import missed, peak_rss_bytes


def test_bars_that_are_missed_are_named() -> None:
    met = {"seconds_all": 0.049, "joint_candidates_per_s": 1e6, "peak_rss_gib": 0.99}
    assert missed(met) == []
    assert missed({**met, "seconds_all": 0.05}) == ["seconds_all is 0.05, the bar is below 0.05"]
    assert missed({**met, "joint_candidates_per_s": 999_999.0, "peak_rss_gib": 1.5}) == [
        "joint_candidates_per_s is 1e+06, the bar is at least 1e+06",
        "peak_rss_gib is 1.5, the bar is below 1",
    ]


def test_peak_memory_is_in_bytes() -> None:
    held = bytearray(64 * 2**20)
    assert len(held) < peak_rss_bytes() < 2**40
