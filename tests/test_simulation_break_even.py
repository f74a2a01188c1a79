import pytest
from simulation_break_even import DEVIATIONS, PROMPTED, simulate


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 872])
@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("spread", DEVIATIONS)
def test_nine_of_ten_intervals_hold_the_true_break_even(n, seeds, spread):
    for where, prompted in PROMPTED.items():
        found = simulate(n, seeds, DEVIATIONS[spread], prompted, times=1000)
        assert found.mean >= 0.88, where
        assert found.most >= 0.88, where
        assert found.mean_doublings < 4, where  # of the six that were run
