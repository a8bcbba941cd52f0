"""The defences, one file each, registered as entry points of the group `sidebench.defences`."""
