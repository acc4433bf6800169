"""What the bench of adversarial training trains, and how long devices would take for it."""
