"""Inference: is one better than another, is any of many better, and could one have known with so little data?"""

from quantfleet.evaluation.inference.multiple import Superiority, adjusted_p_values, confidence_set, superiority
from quantfleet.evaluation.inference.over_seeds import SeededDifference, difference_over_seeds, pooled_deviation
from quantfleet.evaluation.inference.paired import (
    BayesianComparison,
    DieboldMariano,
    bayes_factor,
    bayesian_comparison,
    diebold_mariano,
)
from quantfleet.evaluation.inference.permutation import permuted_correlation_p, sign_flip_p
from quantfleet.evaluation.inference.power import detection_power, years_to_detect
from quantfleet.evaluation.inference.verdicts import ModelVerdict, RunVerdict, judge

__all__ = [
    "BayesianComparison",
    "DieboldMariano",
    "ModelVerdict",
    "RunVerdict",
    "SeededDifference",
    "Superiority",
    "adjusted_p_values",
    "bayes_factor",
    "bayesian_comparison",
    "confidence_set",
    "detection_power",
    "diebold_mariano",
    "difference_over_seeds",
    "judge",
    "permuted_correlation_p",
    "pooled_deviation",
    "sign_flip_p",
    "superiority",
    "years_to_detect",
]
