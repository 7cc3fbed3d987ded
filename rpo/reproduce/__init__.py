"""The paper's tables and figures: what they need, trained and told."""
