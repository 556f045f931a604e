"""Raw pictures and captions become training shards; every decision is on record."""
