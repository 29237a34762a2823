import importlib
from pathlib import Path

import pytest
from test_detection_reference import slow_auroc, slow_fpr_at_tpr95, slow_threshold

from helpers.replicates import REFERENCES, replicates
from verisal.attacks.on_maps.attack import MapAttack
from verisal.detection.families import transfer_report
from verisal.detectors.consistency import consistency_numbers
from verisal.detectors.gradients import gradient_statistics
from verisal.detectors.residuals import residuals
from verisal.detectors.spectrum import log_spectrum
from verisal.detectors.squeezing import non_local_means
from verisal.detectors.statistical import growth, local_intrinsic_dimension
from verisal.functional.baselines.filling import linear_imputation
from verisal.functional.comparison import map_change, spearman, ssim, total_variation
from verisal.functional.filters import mean_filter, median_filter, scale_down_and_up
from verisal.functional.regions import (
    components,
    largest_boxes,
    largest_component_ious,
    map_levels,
    multi_component_ious,
    pixel_average_precision,
    pointing_hits,
)
from verisal.functional.regions.localisation import pixel_histograms
from verisal.functional.removal import (
    band_removal,
    dabkowski_gal,
    perturbation_curve,
    removal_scores,
    saliency_fidelity,
    square_responses,
)
from verisal.functional.removal.faithfulness import crop_to_boxes
from verisal.functional.statistics import auroc, fpr_at_tpr95, rate_limits, threshold_at_fpr
from verisal.functional.statistics.detection import resampled_auroc, resampled_mean
from verisal.saliency import (
    RISE,
    Decoy,
    EvidenceMasks,
    ExtremalPerturbation,
    GradientSHAP,
    HierarchicalMasks,
    IntegratedGradients,
    MeaningfulPerturbation,
    Occlusion,
    SmoothGrad,
    VarGrad,
)
from verisal.saliency.gates.contributions import contributions
from verisal.saliency.perturbation.designs import orthogonal_array
from verisal.saliency.perturbation.halves import split_half_noise
from verisal.saliency.perturbation.rise import upsample_cells
from verisal.saliency.perturbation.smooth_masks import area_deviation, smooth_max

# Functions whose speed hides what they compute; each needs a reference. A new one is added here.
FAST = (
    area_deviation,
    auroc,
    band_removal,
    components,
    consistency_numbers,
    crop_to_boxes,
    dabkowski_gal,
    fpr_at_tpr95,
    gradient_statistics,
    growth,
    largest_boxes,
    largest_component_ious,
    linear_imputation,
    local_intrinsic_dimension,
    log_spectrum,
    map_change,
    map_levels,
    mean_filter,
    median_filter,
    multi_component_ious,
    non_local_means,
    orthogonal_array,
    perturbation_curve,
    pixel_average_precision,
    pixel_histograms,
    pointing_hits,
    rate_limits,
    removal_scores,
    resampled_auroc,
    resampled_mean,
    residuals,
    saliency_fidelity,
    scale_down_and_up,
    smooth_max,
    spearman,
    split_half_noise,
    square_responses,
    ssim,
    threshold_at_fpr,
    total_variation,
    transfer_report,
    contributions,
    upsample_cells,
    Decoy.decoys,
    EvidenceMasks.find,
    ExtremalPerturbation.masks,
    GradientSHAP.attribute,
    HierarchicalMasks.learn,
    IntegratedGradients.attribute,
    MapAttack.__call__,
    MeaningfulPerturbation.explain,
    Occlusion.explain,
    RISE.explain,
    SmoothGrad.read,
    VarGrad.read,
)

replicates(auroc)(slow_auroc)
replicates(fpr_at_tpr95)(slow_fpr_at_tpr95)
replicates(threshold_at_fpr)(slow_threshold)
for path in Path(__file__).parent.glob("test_*_reference.py"):
    importlib.import_module(path.stem)


@pytest.mark.parametrize("fast", FAST, ids=lambda fast: fast.__qualname__)
def test_every_fast_function_has_a_reference(fast):
    assert fast in REFERENCES, f"write @replicates({fast.__qualname__}) in tests/reference"


def test_every_reference_is_of_a_listed_function():
    assert {fast.__qualname__ for fast in set(REFERENCES) - set(FAST)} == set()


def test_a_second_reference_is_refused():
    with pytest.raises(ValueError, match="auroc has a reference already: slow_auroc"):
        replicates(auroc)(lambda positive, negative: 0.0)
