/* SPDX-License-Identifier: GPL-2.0-only */
/* lastzero(N): a scanner from the right, and N writers that each copy their left neighbour, plus one. */
byte cells[N + 1];

proctype scan()
{
	byte i = N;
	do
	:: cells[i] != 0 -> i--
	:: else -> break
	od
}

proctype write(byte j)
{
	byte left;
	left = cells[j - 1];
	cells[j] = left + 1
}

init {
	byte j = 1;
	atomic {
		run scan();
		do
		:: j <= N -> run write(j); j++
		:: else -> break
		od
	}
}
