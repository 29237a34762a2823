"""Stateless functions on tensors, and the context managers that own side effects."""

from ._adversarial import Verdict as Verdict
from ._adversarial import gaussian_noise as gaussian_noise
from ._adversarial import judge_8bit as judge_8bit
from ._adversarial import noise_norm as noise_norm
from ._adversarial import project_noise as project_noise
from ._adversarial import round_to_8bit as round_to_8bit
from ._adversarial import scale_to_l2 as scale_to_l2
from ._chunks import images_at_once as images_at_once
from ._confidence import log_odds as log_odds
from ._detection import auroc as auroc
from ._detection import bootstrap_auroc as bootstrap_auroc
from ._detection import bootstrap_difference as bootstrap_difference
from ._detection import bootstrap_fpr_at_tpr as bootstrap_fpr_at_tpr
from ._detection import bootstrap_rate as bootstrap_rate
from ._detection import bootstrap_weights as bootstrap_weights
from ._detection import fpr_at_tpr95 as fpr_at_tpr95
from ._detection import negatives_needed as negatives_needed
from ._detection import pair_by_image as pair_by_image
from ._detection import percentile_score as percentile_score
from ._detection import rate_above as rate_above
from ._detection import resampled_auroc as resampled_auroc
from ._detection import resampled_rate as resampled_rate
from ._detection import roc_curve as roc_curve
from ._detection import threshold_at_fpr as threshold_at_fpr
from ._detection import weighted_auroc as weighted_auroc
from ._detection import weighted_fpr_at_tpr as weighted_fpr_at_tpr
from ._detection import weighted_rate as weighted_rate
from ._gaussian import gaussian_matrix as gaussian_matrix
from ._impute import linear_imputation as linear_imputation
from ._intervals import are_hits as are_hits
from ._intervals import bootstrap_mean as bootstrap_mean
from ._intervals import weighted_means as weighted_means
from ._map_attack_objectives import MapAttackKind as MapAttackKind
from ._map_attack_objectives import MapObjective as MapObjective
from ._map_attack_objectives import centre_of_mass as centre_of_mass
from ._map_attack_objectives import map_objective as map_objective
from ._map_attack_objectives import target_side as target_side
from ._map_attack_search import MapAttackResult as MapAttackResult
from ._map_attack_surrogates import GradientSurrogate as GradientSurrogate
from ._map_attack_surrogates import IntegratedGradientsSurrogate as IntegratedGradientsSurrogate
from ._map_attack_surrogates import SmoothGradSurrogate as SmoothGradSurrogate
from ._map_attack_surrogates import Surrogate as Surrogate
from ._masks import CHANNEL_STATISTICS as CHANNEL_STATISTICS
from ._masks import Fusion as Fusion
from ._masks import GatePenalty as GatePenalty
from ._masks import channel_statistics as channel_statistics
from ._masks import fuse_layers as fuse_layers
from ._masks import gate_map as gate_map
from ._masks import gate_penalty_weights as gate_penalty_weights
from ._masks import resize_maps as resize_maps
from ._masks import stack_layers as stack_layers
from ._networks import channels_last as channels_last
from ._networks import check_hookable as check_hookable
from ._networks import plain_network as plain_network
from ._networks import staged_network as staged_network
from ._networks import uncompiled as uncompiled
from ._neutrality import Neutrality as Neutrality
from ._neutrality import is_neutral as is_neutral
from ._neutrality import neutrality as neutrality
from ._neutrality import random_cell_masks as random_cell_masks
from ._order import Order as Order
from ._order import pixel_ranks as pixel_ranks
from ._order import tied_share as tied_share
from ._outputs import NO_GRADIENT as NO_GRADIENT
from ._outputs import Answering as Answering
from ._outputs import ask as ask
from ._outputs import check_labels as check_labels
from ._outputs import check_logits as check_logits
from ._outputs import decides_for as decides_for
from ._outputs import decision as decision
from ._outputs import log_probabilities as log_probabilities
from ._outputs import logits_of as logits_of
from ._outputs import output_of as output_of
from ._outputs import probabilities as probabilities
from ._outputs import require_softmax as require_softmax
from ._patch_lattice import PatchLattice as PatchLattice
from ._patch_lattice import SomePatches as SomePatches
from ._patch_lattice import patch_lattice as patch_lattice
from ._perturb import compose as compose
from ._rise_masks import cell_size as cell_size
from ._rise_masks import upsample_cells as upsample_cells
from ._scopes import frozen as frozen
from ._scopes import gradient_scope as gradient_scope
from ._scopes import rng_preserved as rng_preserved
from ._scoring import scoring as scoring
from ._seeding import content_ids as content_ids
from ._seeding import derive_seed as derive_seed
from ._seeding import named_after as named_after
from ._seeding import per_sample as per_sample
from ._settings import settings_of as settings_of
from ._shared_work import SharedWork as SharedWork
from ._shared_work import shared as shared
from ._shared_work import work_key as work_key
from ._shares import FEWEST_FOR_PERCENTILES as FEWEST_FOR_PERCENTILES
from ._shares import FEWEST_FOR_TPR95 as FEWEST_FOR_TPR95
from ._shares import Share as Share
from ._shares import greatest_share as greatest_share
from ._shares import hit_difference as hit_difference
from ._shares import least_share as least_share
from ._shares import plain_rate as plain_rate
from ._shares import rate_limits as rate_limits
from ._shares import share_difference as share_difference
from ._shares import share_of_resamples as share_of_resamples
from ._smooth_masks import area_deviation as area_deviation
from ._smooth_masks import blur_pyramid as blur_pyramid
from ._smooth_masks import pyramid_blend as pyramid_blend
from ._smooth_masks import smooth_max as smooth_max
from ._smooth_masks import smooth_max_weights as smooth_max_weights
from ._smooth_masks import total_variation as total_variation
from ._softplus import softplus_relu as softplus_relu
from ._views import shift_one_pixel as shift_one_pixel
from ._views import softmax_distance as softmax_distance
from .adaptive import EndToEnd as EndToEnd
from .adaptive import Strongest as Strongest
from .adaptive import end_to_end as end_to_end
from .adaptive import nearest_of_other_class as nearest_of_other_class
from .adaptive import strongest as strongest
from .attacked_sensitivity import MapChange as MapChange
from .attacked_sensitivity import map_change as map_change
from .baselines import Baseline as Baseline
from .baselines import Blur as Blur
from .baselines import Constant as Constant
from .baselines import DatasetMean as DatasetMean
from .baselines import ImageMean as ImageMean
from .baselines import bound as bound
from .boxes import NUM_LEVELS as NUM_LEVELS
from .boxes import Components as Components
from .boxes import best_ious as best_ious
from .boxes import box_iou as box_iou
from .boxes import components as components
from .boxes import largest_boxes as largest_boxes
from .boxes import map_levels as map_levels
from .boxes import nearest_ious as nearest_ious
from .curves import aopc as aopc
from .curves import curve_area as curve_area
from .curves import normalised_curve_area as normalised_curve_area
from .curves import perturbation_curve as perturbation_curve
from .curves import removal_scores as removal_scores
from .disturbed import QUERIES as QUERIES
from .disturbed import DisturbedQueries as DisturbedQueries
from .disturbed import Mosaics as Mosaics
from .disturbed import disturbed_queries as disturbed_queries
from .disturbed import mosaic_groups as mosaic_groups
from .disturbed import mosaics as mosaics
from .disturbed import present_queries as present_queries
from .faithfulness import Fidelity as Fidelity
from .faithfulness import crop_to_boxes as crop_to_boxes
from .faithfulness import dabkowski_gal as dabkowski_gal
from .faithfulness import saliency_fidelity as saliency_fidelity
from .faithfulness import threshold_boxes as threshold_boxes
from .faithfulness import tuned_threshold as tuned_threshold
from .filling_baselines import Inpaint as Inpaint
from .filling_baselines import LinearImputation as LinearImputation
from .infidelity import Responses as Responses
from .infidelity import gaussian_noises as gaussian_noises
from .infidelity import infidelity as infidelity
from .infidelity import responses as responses
from .infidelity import square_responses as square_responses
from .infidelity import squares_of as squares_of
from .localisation import choose_threshold as choose_threshold
from .localisation import energy_inside as energy_inside
from .localisation import frozen_boxes as frozen_boxes
from .localisation import largest_component_ious as largest_component_ious
from .localisation import masks_from_boxes as masks_from_boxes
from .localisation import multi_component_ious as multi_component_ious
from .localisation import object_area as object_area
from .localisation import pixel_average_precision as pixel_average_precision
from .localisation import pixel_histograms as pixel_histograms
from .localisation import pointing_hits as pointing_hits
from .localisation import pointing_tolerance as pointing_tolerance
from .localisation import threshold_level as threshold_level
from .map_attacks import MapAttack as MapAttack
from .map_comparison import Agreement as Agreement
from .map_comparison import Comparison as Comparison
from .map_comparison import compare_agreement as compare_agreement
from .map_comparison import map_agreement as map_agreement
from .map_comparison import map_similarities as map_similarities
from .map_comparison import random_maps as random_maps
from .map_comparison import similarity_with_floor as similarity_with_floor
from .postprocess import attribution_of as attribution_of
from .postprocess import postprocess as postprocess
from .random_baselines import GaussianNoise as GaussianNoise
from .random_baselines import OtherImage as OtherImage
from .random_baselines import Shuffle as Shuffle
from .random_baselines import UniformNoise as UniformNoise
from .randomisation import RandomisedCopy as RandomisedCopy
from .randomisation import derangement as derangement
from .randomisation import passes_randomisation as passes_randomisation
from .randomisation import randomised_copies as randomised_copies
from .randomisation import randomised_steps as randomised_steps
from .randomisation import weighted_percentile as weighted_percentile
from .ranking import diagonal_effect as diagonal_effect
from .ranking import kendall_tau_b as kendall_tau_b
from .ranking import morf_lerf_agreement as morf_lerf_agreement
from .ranking import rank_correlation as rank_correlation
from .ranking import ranking_agreement as ranking_agreement
from .ranking import ranking_stability as ranking_stability
from .ranking import swap_shares as swap_shares
from .receptive_field import ReceptiveField as ReceptiveField
from .receptive_field import least_period as least_period
from .receptive_field import receptive_field as receptive_field
from .recommended import recommended_baselines as recommended_baselines
from .sensitivity import sensitivity_max as sensitivity_max
from .sensitivity import uniform_noises as uniform_noises
from .similarity import average_ranks as average_ranks
from .similarity import defined_maps as defined_maps
from .similarity import pearson as pearson
from .similarity import spearman as spearman
from .similarity import spearman_of_pairs as spearman_of_pairs
from .similarity import ssim as ssim
from .similarity import top_k_intersection as top_k_intersection
from .smoothness import blur_to_variation as blur_to_variation
from .smoothness import high_frequency_share as high_frequency_share
from .smoothness import variation_at_equal_mass as variation_at_equal_mass

__all__ = [
    "CHANNEL_STATISTICS",
    "FEWEST_FOR_PERCENTILES",
    "FEWEST_FOR_TPR95",
    "NO_GRADIENT",
    "NUM_LEVELS",
    "QUERIES",
    "Agreement",
    "Answering",
    "Baseline",
    "Blur",
    "Comparison",
    "Components",
    "Constant",
    "DatasetMean",
    "DisturbedQueries",
    "EndToEnd",
    "Fidelity",
    "Fusion",
    "GatePenalty",
    "GaussianNoise",
    "GradientSurrogate",
    "ImageMean",
    "Inpaint",
    "IntegratedGradientsSurrogate",
    "LinearImputation",
    "MapAttack",
    "MapAttackKind",
    "MapAttackResult",
    "MapChange",
    "MapObjective",
    "Mosaics",
    "Neutrality",
    "Order",
    "OtherImage",
    "PatchLattice",
    "RandomisedCopy",
    "ReceptiveField",
    "Responses",
    "Share",
    "SharedWork",
    "Shuffle",
    "SmoothGradSurrogate",
    "SomePatches",
    "Strongest",
    "Surrogate",
    "UniformNoise",
    "Verdict",
    "aopc",
    "are_hits",
    "area_deviation",
    "ask",
    "attribution_of",
    "auroc",
    "average_ranks",
    "best_ious",
    "blur_pyramid",
    "blur_to_variation",
    "bootstrap_auroc",
    "bootstrap_difference",
    "bootstrap_fpr_at_tpr",
    "bootstrap_mean",
    "bootstrap_rate",
    "bootstrap_weights",
    "bound",
    "box_iou",
    "cell_size",
    "centre_of_mass",
    "channel_statistics",
    "channels_last",
    "check_hookable",
    "check_labels",
    "check_logits",
    "choose_threshold",
    "compare_agreement",
    "components",
    "compose",
    "content_ids",
    "crop_to_boxes",
    "curve_area",
    "dabkowski_gal",
    "decides_for",
    "decision",
    "defined_maps",
    "derangement",
    "derive_seed",
    "diagonal_effect",
    "disturbed_queries",
    "end_to_end",
    "energy_inside",
    "fpr_at_tpr95",
    "frozen",
    "frozen_boxes",
    "fuse_layers",
    "gate_map",
    "gate_penalty_weights",
    "gaussian_matrix",
    "gaussian_noise",
    "gaussian_noises",
    "gradient_scope",
    "greatest_share",
    "high_frequency_share",
    "hit_difference",
    "images_at_once",
    "infidelity",
    "is_neutral",
    "judge_8bit",
    "kendall_tau_b",
    "largest_boxes",
    "largest_component_ious",
    "least_period",
    "least_share",
    "linear_imputation",
    "log_odds",
    "log_probabilities",
    "logits_of",
    "map_agreement",
    "map_change",
    "map_levels",
    "map_objective",
    "map_similarities",
    "masks_from_boxes",
    "morf_lerf_agreement",
    "mosaic_groups",
    "mosaics",
    "multi_component_ious",
    "named_after",
    "nearest_ious",
    "nearest_of_other_class",
    "negatives_needed",
    "neutrality",
    "noise_norm",
    "normalised_curve_area",
    "object_area",
    "output_of",
    "pair_by_image",
    "passes_randomisation",
    "patch_lattice",
    "pearson",
    "per_sample",
    "percentile_score",
    "perturbation_curve",
    "pixel_average_precision",
    "pixel_histograms",
    "pixel_ranks",
    "plain_network",
    "plain_rate",
    "pointing_hits",
    "pointing_tolerance",
    "postprocess",
    "present_queries",
    "probabilities",
    "project_noise",
    "pyramid_blend",
    "random_cell_masks",
    "random_maps",
    "randomised_copies",
    "randomised_steps",
    "rank_correlation",
    "ranking_agreement",
    "ranking_stability",
    "rate_above",
    "rate_limits",
    "receptive_field",
    "recommended_baselines",
    "removal_scores",
    "require_softmax",
    "resampled_auroc",
    "resampled_rate",
    "resize_maps",
    "responses",
    "rng_preserved",
    "roc_curve",
    "round_to_8bit",
    "saliency_fidelity",
    "scale_to_l2",
    "scoring",
    "sensitivity_max",
    "settings_of",
    "share_difference",
    "share_of_resamples",
    "shared",
    "shift_one_pixel",
    "similarity_with_floor",
    "smooth_max",
    "smooth_max_weights",
    "softmax_distance",
    "softplus_relu",
    "spearman",
    "spearman_of_pairs",
    "square_responses",
    "squares_of",
    "ssim",
    "stack_layers",
    "staged_network",
    "strongest",
    "swap_shares",
    "target_side",
    "threshold_at_fpr",
    "threshold_boxes",
    "threshold_level",
    "tied_share",
    "top_k_intersection",
    "total_variation",
    "tuned_threshold",
    "uncompiled",
    "uniform_noises",
    "upsample_cells",
    "variation_at_equal_mass",
    "weighted_auroc",
    "weighted_fpr_at_tpr",
    "weighted_means",
    "weighted_percentile",
    "weighted_rate",
    "work_key",
]
