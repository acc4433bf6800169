"""Photon: language models trained from scratch by clients far apart (Sani et al. 2025)."""
