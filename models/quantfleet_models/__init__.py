"""Models, one folder per family. Importing this package registers all of them; their libraries load when one is built."""

from quantfleet_models import boosted, catboost, forest, hybrid, lightgbm, linear, naive, xlstm, xlstm_transformer

__all__ = ["boosted", "catboost", "forest", "hybrid", "lightgbm", "linear", "naive", "xlstm", "xlstm_transformer"]
