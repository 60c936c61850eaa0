"""The host's network: its files' grammar, its DHCP clients, and the change that reverts by itself unless confirmed."""
