package program

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manCommand writes the manual pages from the commands themselves, so that they
// cannot say anything else. (cobra/doc would bring a Markdown compiler along.)
func (e *Env) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man [DIRECTORY]",
		Short: "Print the manual page, or write those of all commands into a directory",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, list []string) error {
			if len(list) == 0 {
				return manPage(e.Stdout, cmd.Root())
			}
			if err := os.MkdirAll(list[0], 0o755); err != nil {
				return err
			}
			return manPages(cmd.Root(), list[0])
		},
	}
}

func manPages(cmd *cobra.Command, dir string) error {
	f, err := os.Create(filepath.Join(dir, pageName(cmd)+".1"))
	if err != nil {
		return err
	}
	if err := errors.Join(manPage(f, cmd), f.Close()); err != nil {
		return err
	}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			if err := manPages(c, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manPage writes one page in man(7).
func manPage(out io.Writer, cmd *cobra.Command) error {
	w := &bytes.Buffer{}
	name := pageName(cmd)
	fmt.Fprintf(w, ".TH %s 1 \"\" \"%s %s\" \"Holdfast\"\n", roff(strings.ToUpper(name)), roff(cmd.Root().Name()), roff(ThisBuild().Version))
	fmt.Fprintf(w, ".SH NAME\n%s \\- %s\n", roff(name), roff(cmd.Short))
	fmt.Fprintf(w, ".SH SYNOPSIS\n.B %s\n", roff(cmd.UseLine()))
	long := cmd.Long
	if long == "" {
		long = cmd.Short + "."
	}
	fmt.Fprint(w, ".SH DESCRIPTION\n")
	for _, para := range strings.Split(long, "\n") {
		switch {
		case para == "":
			fmt.Fprintln(w, ".PP")
		case strings.HasPrefix(para, " "):
			fmt.Fprintf(w, ".RS\n.nf\n%s\n.fi\n.RE\n", roff(strings.TrimSpace(para)))
		default:
			fmt.Fprintln(w, roff(para))
		}
	}
	flags := false
	cmd.Flags().AddFlagSet(cmd.InheritedFlags())
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		if !flags {
			fmt.Fprint(w, ".SH OPTIONS\n")
			flags = true
		}
		manFlag(w, f)
	})
	fmt.Fprint(w, ".SH EXIT STATUS\n0 done, 1 the answer is no, 2 wrong use, 3 could not be done.\n")
	manSeeAlso(w, cmd)
	_, err := w.WriteTo(out)
	return err
}

func manFlag(w io.Writer, f *pflag.Flag) {
	value, use := pflag.UnquoteUsage(f)
	form := "--" + f.Name
	if f.Shorthand != "" {
		form = "-" + f.Shorthand + ", " + form
	}
	if f.Value.Type() != "bool" && f.DefValue != "" {
		use += " (default " + f.DefValue + ")"
	}
	fmt.Fprintf(w, ".TP\n\\fB%s\\fR \\fI%s\\fR\n%s\n", roff(form), roff(value), roff(use))
}

func manSeeAlso(w io.Writer, cmd *cobra.Command) {
	var see []string
	if cmd.HasParent() {
		see = append(see, pageName(cmd.Parent()))
	}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			see = append(see, pageName(c))
		}
	}
	for i, s := range see {
		see[i] = "\\fB" + roff(s) + "\\fR(1)"
	}
	if len(see) > 0 {
		fmt.Fprintf(w, ".SH SEE ALSO\n%s\n", strings.Join(see, ", "))
	}
}

// roff escapes what groff would take for its own.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
