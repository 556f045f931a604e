"""Fine-tuning on a folder of pictures: what is read, what is planned by which rules, the recipe that is written."""
