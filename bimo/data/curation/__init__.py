"""From raw pictures and captions to training shards: every row is kept, dropped by a rule or failed with a reason."""
