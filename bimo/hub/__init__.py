"""From a name to weights: registry, folders, hubs, licences."""
