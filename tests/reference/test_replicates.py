import pytest
from _replicates import REFERENCES, replicates
from test_detection_reference import slow_auroc, slow_fpr_at_tpr95, slow_threshold

from verisal.functional import auroc, fpr_at_tpr95, threshold_at_fpr

# Functions whose speed hides what they compute; each needs a reference. A new one is added here.
FAST = (auroc, fpr_at_tpr95, threshold_at_fpr)

replicates(auroc)(slow_auroc)
replicates(fpr_at_tpr95)(slow_fpr_at_tpr95)
replicates(threshold_at_fpr)(slow_threshold)


@pytest.mark.parametrize("fast", FAST, ids=lambda fast: fast.__name__)
def test_every_fast_function_has_a_reference(fast):
    assert fast in REFERENCES, f"write @replicates({fast.__name__}) in tests/reference"


def test_a_second_reference_is_refused():
    with pytest.raises(ValueError, match="auroc has a reference already: slow_auroc"):
        replicates(auroc)(lambda positive, negative: 0.0)
