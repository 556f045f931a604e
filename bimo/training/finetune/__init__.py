"""Fine-tuning on a folder of pictures: sources, the rules of the plan, and the recipe file that is written."""
