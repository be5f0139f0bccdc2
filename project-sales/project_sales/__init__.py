"""The sales project: purchases in, marts and a forecast out."""
