"""Tests of qdqcli.op."""
