"""The attacks: programs in C for each way to a process's secret, and the table of what each must give."""
