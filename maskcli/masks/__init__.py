"""Token ids and lengths to masks; masks to names and conventions. numpy only."""
