"""Tables shipped with the package; sources and licences are in NOTICE."""
