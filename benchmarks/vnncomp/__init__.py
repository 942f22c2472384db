"""What VNN-COMP calls: three scripts (README.md), and the one piece of Python that they need."""
