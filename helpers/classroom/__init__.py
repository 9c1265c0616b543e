"""For teachers and learners: checks of the exercises, copies for students, grading, publishing."""
