package ctl

// SplitWords is splitWords, for the scripts.
var SplitWords = splitWords
