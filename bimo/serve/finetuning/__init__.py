"""Fine-tuning from the page: `bimo finetune` in child processes, their records and progress."""
