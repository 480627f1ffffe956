"""From a program to the C++ text of its kernel."""
