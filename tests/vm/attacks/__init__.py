"""The attacks: a program in C for each way to another process's secret, and the table that says what each must give."""
