"""Stand-ins for services that cannot run in a test: real servers on loopback, each checked against its vendor's API."""
