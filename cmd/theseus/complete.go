package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"theseus/offline"
)

// words are the commands that a shell may propose.
var words = []string{"serve", "ctl", "offline", "upgrade", "backup", "bench", "version", "help"}

// complete answers the scripts that `theseus ctl completion` and `theseus offline
// completion` write: it proposes our own words, and hands the rest on to the command
// line that they belong to. request is cobra's word for the question.
func complete(request string, args []string) int {
	if len(args) > 1 {
		switch asked := append([]string{request}, args[1:]...); args[0] {
		case "ctl":
			return control(append([]string{"theseus ctl"}, asked...))
		case "offline":
			return offline.Run("theseus offline", asked, os.Stdin, os.Stdout, os.Stderr)
		}
		return 0
	}
	begun := strings.Join(args, "")
	for _, w := range words {
		if strings.HasPrefix(w, begun) {
			fmt.Println(w)
		}
	}
	fmt.Printf(":%d\n", cobra.ShellCompDirectiveNoFileComp)
	return 0
}
