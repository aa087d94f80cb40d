"""What the machine is and can do. The only place that asks torch whether it has something."""
