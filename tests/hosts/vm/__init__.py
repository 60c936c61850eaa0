"""Domain-0s in virtual machines: what needs a kernel, or a hypervisor, of its own."""
