/* SPDX-License-Identifier: GPL-2.0-only */
/* indexer(N): N threads that each put four words into one hash table of 128 places. */
byte table[128];

proctype insert(byte number)
{
	byte message = 1, word, place;
	bool done;
	do
	:: message > 4 -> break
	:: else ->
		d_step { word = 11 * message + number; place = (7 * word) % 128; done = false }
		do
		:: done -> break
		:: else ->
			atomic {
				if
				:: table[place] == 0 -> table[place] = word; done = true
				:: else -> place = (place + 1) % 128
				fi
			}
		od
		message++
	od
}

init {
	byte t = 0;
	atomic {
		do
		:: t < N -> run insert(t); t++
		:: else -> break
		od
	}
}
