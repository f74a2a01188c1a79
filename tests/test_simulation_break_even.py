import math

import pytest
from simulation_break_even import DEVIATIONS, PROMPTED, simulate

TIMES = 700
LEAST = 0.88 - 2 * math.sqrt(0.88 * 0.12 / TIMES)  # of so many; docs/evidence.md has more


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 872])
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("spread", DEVIATIONS)
def test_nine_of_ten_intervals_hold_the_true_break_even(n, seeds, spread):
    for where, prompted in PROMPTED.items():
        found = simulate(n, seeds, DEVIATIONS[spread], prompted, TIMES)
        assert found.mean >= LEAST, where
        assert found.most >= LEAST, where
        assert found.mean_doublings < 5, where  # of the six that were run
