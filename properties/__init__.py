"""Problems of the project's own: networks it trained, properties it wrote, verdicts an exact solver found."""
