"""Devices that come and go, shared by many federated jobs: scheduler, policies and simulator."""
