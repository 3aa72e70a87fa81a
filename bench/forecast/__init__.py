"""How well the published forecasters forecast, on the published protocol: a check of architectures and training, not of speed."""
