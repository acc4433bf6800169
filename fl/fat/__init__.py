"""Federated adversarial training: models trained robust, a module at a time (FedProphet)."""
