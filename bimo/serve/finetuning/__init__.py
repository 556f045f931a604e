"""Fine-tuning by `bimo finetune` in a process of its own, for the page: requests, records, progress, the processes."""
