"""What journal and quarantine stand on: the chain of records, reading it back, what is kept, durable writes."""
