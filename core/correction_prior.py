"""Population prior of the online correction. Written by core.population; do not edit.

Fitted on the first halves of seven recordings of T1D-UOM (Alsuhaymi et al., University of Manchester, 2025,
CC BY 4.0).
"""

from __future__ import annotations

import base64
import zlib
from typing import Final

import numpy as np

from core.correction import N_BIN, N_PSI, Array, H, K, Population


def _load(text: str) -> Population:
    numbers = np.frombuffer(zlib.decompress(base64.b85decode(text)), "<f4").astype(np.float64)
    sizes = (K, K, K * H, K * (K + 1) // 2, H, N_PSI * H, H * N_BIN, H * N_BIN)
    parts: list[Array] = list(np.split(numbers, np.cumsum(sizes)[:-1]))
    cov = np.zeros((K, K))
    cov[np.tril_indices(K)] = parts[3]
    cov = np.tril(cov) + np.tril(cov, -1).T
    return Population(
        parts[0],
        parts[1],
        parts[2].reshape((K, H)),
        cov,
        parts[4],
        parts[5].reshape((N_PSI, H)),
        parts[6].reshape((H, N_BIN)),
        parts[7].reshape((H, N_BIN)),
    )


_TEXT: Final = (
    r"""c-jq@_ajwr9LLEFDWej}NJ2vj_dL(J_nt$Dkc^~4LxZG6J7q)~$V^dEltP1Y&-2`I&TT0zp-`ffj1mpn`hI_U{{x@*=k<OmC"""
    r"""@3h5&iDj(@7gLkQ5FkB-Tfu{Fjib(AQBJj1mG!sQao}|g7jI0rC{clTY@jwCJ1Y#Q25C*UbxpZO}Id0z->DIj5{0cCEuE;Bb"""
    r"""P>a(N@n>q;r;u1oI}%l8KBSlUlZ}bT{t~RW?<Ln!jP6@Rm!f@RnYlU~4i%4ZCa<-qPUsojb-+o$t2_2dee>Ch-#}lT1ZvO;("""
    r""";Dxay!l_}ZQSYD%K?>$_Fbj#EFR3&S_dN{@b&-KfuzkcJl0fOUz2FRn=3tjiaC?Qx^+T})|B7EpudMpEB1BKcxVbxJ`Yjw+t"""
    r"""%NPT}ihuUfBKwWrgPo4Qcjo;W)D<(KlVFUKmjGZSaS?d-jC(CC}Q!2EbH$+c!&Ng4<ydhw-^K31#)2#|q=lrhq&X*n>be^4k"""
    r"""#QF5|<J5k^DaxkB*l7(_&zEQ}pgZF+^=(farIP$iXs5S?GAbs8>P2?6y3bXrGH?uSIlh<vg9GWJJ97n1qN!9sT@ZD>BZwN%T"""
    r"""}Cn8ft0IkSlAFWhdLc}OL(!?i)wt}M;9G6rrcVbsP(r5bZg6Gs`%zz$|l~A>Irb7l0HOIn>=l(vTNt~1$nmA+D&t*{RP_e`S"""
    r"""v7w+|k=~z%zZPaVuvzo$j}Cy7In(o~^W#>QX$*wPx4~FYHYeUYzG8wFq%$cfOm%y`Qs}E8TyUGby;knNT9mcw{E`J@%4t(XQ"""
    r""">3R(&mXg&a*A&akAzfBd5a50zQ#*yY^op_5#~$13g#wNUaVa+EAHzeiRc5x}-29%p;@oMU;n8(Djv0k{0UEjN4iY%Vn+PWU8"""
    r"""fBDFnZ55>wwlxLy=J-Tlm{r61*jZ>D<)@ROBpWn#XxP8B+uj)jyX&%<>x!f35I6aje60c_8{2RpvFTEhmXwsv47VV&3s?HTo"""
    r"""o&HpKu1Ap?|L(Ie{!g}$_mmVWT`d<JG;WerpEYOWV}8pH`lZNx%15(3`+V8V58K&*+Ay}x_=D_Jz;VjjS(`SW9!b4uDPql+S"""
    r"""ji?&P-PeC#IUx`S6Ru|VYd5=F30O{Va3ggRF3Irdb4Xcb<F<}{aag)cAufn-Tqt0QES%7)$=ptxn*Lx3H@B&3_r<VyML1BAP"""
    r"""f1yV0-x$e=GU-HwN-WeSf*f`tLZW&~)zK$ItA*5f52|PNv{RrzK51G@z}W%BX>qav?1JAw83KShzBE4&|c`C^K?`>~E7;wl7"""
    r"""eD)!lcDy|2>FRy3BfTT|Dt#IJj7?uINjH2bG)V#!4I>4H&0XZDQDb$zMecjZ}1r{)o*mNS_;nsZb7AjFuBt8!vD7W&D;d<@t"""
    r"""ut8>)TdP9201snR&@F10{sw4~(o@Ku@l*sm{XHX9eHR#6J^RnYgIV_bifqS;wmwQsOg4>logEM{_!umPLs6e|zRQ0`5wo0j3"""
    r"""*4LyaPoV7Of6J}qc`+m8sW+x_L|YFPUMHiS19RvHyB|;*bJS@UX@Zb9;Uc$e*h0ShZje0iN09t-gR%VI;mO=|!)Mg<8#k$##"""
    r"""jEKki+jT1muuP0=gYZ{t{HM2hg0&mQDS-9xhwLm`L6PCI#+nNxQh-5GGsen9AoEvOX7yVD#=?j(&Up5-jnNADc>ZwYuucFut"""
    r"""|RKS&>}pp9Piue`nhaBWRC1H|VI}Kk1A)7wO--MclQ%bMpHtQ*Ty13AyPt&s2UzPglNvx|+QCgSz~I)fjox1%bS-c9;BseUj"""
    r"""XGe2#n|yIB6AM1{I`!JblGzLi>Vzls|8XHR#<ET;2v7SK~<LRwHTKy9qgq|TwW+%nmHcER>0YIOcV+FUn}-c@jj8cUi}UuPY"""
    r"""ooQt(+&+OMMZjYy~g&d@O2MejjSCgsO%qrPw(Oi~YHJ6L~lg>@B*u+_tu3}9}Lf9>tKiH4{Yq&4D=ea{cZQK>t0dD4{QqEbu"""
    r"""i!~eDPW|zjK#%kNBs29dVynLuvs-eev$uMdQYpKp(jEin=`#x(>94g<>6NN7I<zlSxYV<W-P;$y#Xba_ORa~@FV=|m2(F`h5"""
    r"""5&{If9cby=mDj-MJkNDT2Gz-<Vm{+@1+^dE41XoW4irqKXosCBqvSt<WBuD<_f?3rgUGurV2OSp&q7oQAbYwq9olC>Sv4=UF"""
    r"""P+Onm4CMRubCJ#@M_RK4P9zyI-2o8gaAef&NLfYH}~7TYHs4UwbLE;XNf?cb9sQ7tKCc+`ul|ufn|=7{xuR{l+$yCbCa_t6A"""
    r"""d188*5@N(B90OX+AOP{S6}=^0OwX@~Aoy8Kfa-Qs$Zo^gLQJrpv6_WgQAxa8vtsiT`VXY(nBo0G|MQ%?<ZU0tT~6>rq#T}uv"""
    r"""g-w7e-u~3CurnQjWm~6%FHJQfEb*tvo;8*Tk*dTY`yM^1_ex6HD&f|7E=W(_9o49?SlBg%ILg<9!4Ya+Nn$ww!zvybU8+6jA"""
    r"""VQPP#1N&y{Q})Ug4eqe<8(DD4Wi~j%o^za#&B--xa5KY?bK7bJT)K1`rz8BwZq@G)8cu#7@eL8km<!tMVtE*Qo?FIlFvyop>"""
    r"""@%U9dNxqwH)znulZUA8*A~><<!>pw>5lZJ+SRntoI~`H^mIBWX(N4xyi8r&_EWZLuz_9N6h!T{)TdiNMbabuv+2^yC3Ly<ak"""
    r"""`_zlU}^`D%Ik?h_$g@%^BWs70xf7M1{C*rhd!wC^Oq$>fUQD8gyFItF3(Lpa=75WICH3t(_=si)LjjJ0`K}XCQlC<F_o`(L`"""
    r"""o!?I9ejvJrYtQI>8pokoROlv53E>*&gPH|ZD4m7R|D3Y>mrhdWK`&2kzoC~;c!=ZsU({(Pri`v|sq(2_fIIhh*~R?e-D|H$D"""
    r"""WefjEGZ+Y*-V0n4Fom|yvlw9{ssZ?9cmu=L(BFoM(VAo|Qu!X%@?94TL+40G1*|(2v*k{)WR;J;>p4&B%TRSs~!;6x*gXTV5"""
    r"""aLZ#h&oxPQqVTjZdEGIpYuzWx-BcozoHS%(f4Z?(27=f=<rr4u&vf=~fEr~VdzqRW(MQb@yrjk~Q)LbPCb1H;@v<4cKZNE#E"""
    r"""2z|Gos`LtI~|uEL+5WzqPvDN>GeOA*hx83c6@*}SNmc)x5;uBr_&U`&B+(DC1M3CZyQNb;Zs@f<sSvB(~k<PqjaccDif&%Qy"""
    r"""eJ}QA&A<=h9<#=h4d|&(e>J%jhemifo(4OxDeHKEJ#nlL}oppDy7YrTwb1X`6y9`jz)dx?4Yk9^b6Xrd1}fH(K-Aoj1zZprA"""
    r"""tb^K}7xsB^KbxxZP+D4Edxqu0?_`fp34-f6N9g?zR{S}SvX{*yYPw~`h=oJLReOcx$?_vFU=ws4MCI+VA9l&VlspqCAGQQkg"""
    r"""g?287#wbqw$&cB~>s@soqPj8%+?j<Nn->ZTexVVSfqQhfz>W^}Y@E(`5x{oUyzl|Hp59U67qd91|fxYljnM?gJhdXtL&%H@-"""
    r"""=TK)Dr~5aX{S%u=Jv@JczN>eK{$#b9J+?rJa((PhXC}terVm%piQ|pwj|)76V1yDoZ4Bf*U*>Q*Mek(F@110j$Fh?(udzyX%"""
    r"""h?8@r)>Gl0D5$GIsH|5mhLbxraLO@$iPAc<`zGiuh3RSBo1a_uifkTuZxnISi5=f?o5nNX{zyS-jwr3*lr;n@;5M@-mg&VzV"""
    r"""GC!n#-aK#?EkE<_7F-&;`=g9b-1ez96kUvv}p73FtEO04guC0zO9Xz?QUUgr{*UX?-k9wB?yM$PH(hw^y>jmCWC0YaS0o&R&"""
    r"""ET`n@1+uUhd6Ru+LjP7>zJz*uN_(Tv#EV+7vkr-OaDQM_xfo5_L}73TQ0eMnmxhi+9F;?VjHMA_^ksC{@ku}ip9WSN(Q!k3l"""
    r"""_PT0DMT=aB6Io<&>o3aVV+eO5j<%<{v<U>@<wnZ7?PnajZa#;UJO>ksIEOXn*9El#df~S2n>JyZrF*?cB+uk2Vi<=yojU6k|"""
    r"""s^WXRR|)BocO&-+-0ymd>?Q<NJMLWW_;tbyW>dy&=ED$4)GOvO+INts=wlNz>C+<S;@wE{8hcM-GJ21o@6!n0YSx=bT<}lSD"""
    r"""1E`~DYpbUSH}}e+Riu<|Hd(8JCm4&S!H1Etxg!bb`$ofRFc}%E)@Jc(dT%(@Efo3L6T$cNX&FOI)KZ&-iw_72Jj-*VMbR)1+"""
    r"""`}xLjBM%#_#=J(DqspcNCOJ;*_ie7JH@D=6TnM521S)ijENNPBVn53L}t8<y7#Z?ip(94g}6ospQt4NIbLo5gPoo1uAQ+lPx"""
    r"""A?lFOlee2pJJMWV871a_&yHEMgnAZLr}*7P$rMs~n5JCn%YJBg^DmI5W!dEzw-7vq<S6JgD_B}CA|mB_!di20nKCom~-2EL<"""
    r"""@GRf<MncCSEAoRjDbV@-Hte6XtmO&~Lthhv!`?3x@XMbjlO%&kZ&IiP$O<5@W!fmwjOCuP%K1NzIt5VS6|B*2Kkcz}d+ll14"""
    r"""55ShS#lUQYI(+7njDAH!QEX8iDj6G%bt>bagG((u-;fCMeUq5>m6PVAMQg(C4hj+t`!Q0nTcM!4L66t4Qw<I0TmUB;E}&IW)"""
    r"""1W>l2H$dj0p+=);IX`$Ow~sWXM4wk8Rtg9sP`#A<*OoK$+2L@Ndq*i+nChVG?KWSP?fHES}t(4Oyo%}r$DpFRP-k*8DHxhiM"""
    r"""KT!z*A)HgwxDAw3Yvl@PBihe6(dLzOHu#pV)1RZ;ntwFSd_EJKUF}eWh+V%62PB{}JI|IyTa&0p5a8Ef40$nS3;T&rQZm!2_"""
    r"""Gd2Z42-8R+xnt;A-3%p6=(h>TKsQnk||V#k<ih{!U5#=F8`>y-^~!eBhvqMR$XDO-zC=UXDot_7NvB#>#nX9Yzj`Hms!GkEW"""
    r"""oDdPM`=b6vO3-HuV6JQ*#g8iFLg43tZqL=T?#VM&?<mG&Z4C|RmzK?>)ZAJ-pIFJBh4Y!k<D-^J%WjBhMVGgaGrFfv^B@9*b"""
    r"""<ez^$88x38i{H)mf>(^s6YofM=vY{Qu6?TjxjtH`y{Mm9blD8A&N<4re;Q8e%)JNu!#E&KQN|nRS)dP}Riq^os>Fke-Q-qPO"""
    r"""R_G_Ry=;76@L2h17VwW0uSXQgqBM#{9L6VF5G((>6gsJ^Cu(#aiS6)7-!}v`5TH}+&Bv>)iz->A`5paMB$e!BhZTDUW}%E4g"""
    r"""UFDO>)*c1sofvK+aoeNS;j<l51PGgY~jha4aKLqUE74*d+-ivI;ZBK6=6M=UH<Ahx<Un<k9HQkt3ipkU<828bO!hHyG$^i3h"""
    r"""hspy<y5i)ELI1vBJ?AiM}%o;P3IXkm*pLQ}~#b2gB{BO>rox(XiOXbfz=4}<aAf53(7lweSWWn}$YV%4}*=oPXGopS00;Bv9"""
    r"""ZCBX*GkDdw4D#{3Zona=nCzohWc!E5Q{-I1WUxX@SkZ;O4bi$|`CQhFX4T=rL5w8uznd;VfS?^Nj;!y)=I;#M$(!L01i=Rm5"""
    r"""T>^qjFShZVch3=@)*XeXz!F%0tQpns3c)k?9s<#4&G0>X7a@8S%($H%3C4g`c=V@PSkrBy$dWlm9JoCiTl~uw|JkD_nfpCnJ"""
    r"""Y@t$>RK9+e~S{}P+u0N{uGmI#VVxXp2y<O9!To{@D}JAjUj5}qr@-Mv~c8`1;}%9H&~UY08ft?4<_*x@R*J=u=n(A`27xpx*"""
    r"""k!G->L?~%szqzdlg_=ZyphIzYM=>rpRkAs^QLW6!u@X5Fe~eM?`Zm^o(v6t9xql^%UJn_pc)H6!Q#8{edL{c@T>VRQEH^{}$"""
    r"""lF*v}|9O9ymxZ)Qvjf`}D|?-51!TA7>9jHKOYG`wAFjupltNB_eGV4IsSNN7_dt1g#A70Xf-VN^y8Vma)5^%>szbY60HbPo="""
    r"""Ulmlu8#0RnyVQh{9PLH04v*hKx%1_yXKk0p<lcRIN7yA+v;GE1{Uh^4=Jj$7%sqxH#tc@V7(utXQx`VXNFF_}^9YQxW5M!+J"""
    r"""g-O)<!t~E`z&C%70*-b{VDa>3w3g088Ab`!VxNbk?dKja6sgPXs1>38RI39~^ONx~841?DE@jfka^kP@b$sif1fcDoC>n9)H"""
    r""">fv?M6umcF#g^h5xplJRQWT!4f-p1t)F5@+Rqimdk>;hYm(5-8DgH_szk8)Rx8riQ-sBr&O$osDKwZ602eF~<8GZ)(q@wt4v"""
    r"""e~ltoR3*tA3MFeOCg`Iw-@pMm<7e@`Gf~)E==yw1z;sJ&<^<BtlQx?0MIQNi;XP48_KEF;PK$q(0sZrK#C65k@|6$#4MZk~e"""
    r"""@?Fqt^;y%j9H<A!{rpNMWhn}?D$Z-HMcR>3vLa^U?63ZFPtM)couhUdn4;H6>l@Py<d_-Il9%FYF$4ZaJ(wiV03jx9~-^up="""
    r"""l#?^uRi>wNY9*Dc)qBISvna3gB^mfO#^Pb2)Ne>y-B%&_xh$(V^463|R$c&N`{3Q1#a*_E$>==ykrkn4vX>=aq-<Sk1lqbP$"""
    r"""d^Mn`ei*75TH=8(reyp&8$x4yEs>CR7)+Wv13TP#hw~zi!q3kBIQ)Db>iISVu6GxT)4WUs;_JsiVp<w>!>wT6$9?FLogPS?p"""
    r"""TOkon~0Qiy+zM$YLLg#t5|JgGSOKPh*a+Afup&nh)ruxFroW*0&$-J>uW!QEqNMbkd{7nE@yDfy*m8(v<z*T<cIILYM|$v%f"""
    r"""+YW_oKuQHNf$2Aab4OhYj+-1C^O$#Pc%*_{^&3$Wy#pQ1W3SPk*8fj2Ub}m-0>V;$BPeYTivkklV|&7J8r=Ka;?2KX0-2iB+"""
    r"""h7Uy5i_V*{$&rHjP7C!$5Ex51K}rLd>=Af8AViKQixIPxI}XTO;zc6&O2`abVNqoe(x>VpD2lkCOcZZC!XdWCRFnw9uS_Xtv"""
    r"""Hs-f8JkTIFiRZYAywvk%81`D>z^FTz`et4?wB4gM88f+EmK{s0s*t&ZR5ilbS(EH3_k@gGJ==O>D^XedW-`xYWzZ=71Zvl+D"""
    r""")X$_yB<O)$8=i(Uv4h5Eto`&WEPSSgb$nIHmG7Ql+e6*>-gp<>aQp=fd;bxQ%D4};MnSQj#Yd!lZG|{z{4#No?O`05_XVyVN"""
    r"""(W=j8UBk(spC%t5!}7xGcX?F6L0PYGN$W<NQ*npJ2~Q><926n<URZeP3k=kO5N2k@>IahFD;QnW~r#7*9m3L(84~BchKNGQy"""
    r"""6w;5B%<)!aV)ih-Or3Vg1edOm18;QT4Nu2_5}EUnR#yk)w)5ON%d}eQLLFoY`^*My?JQZ)`da--lK*jpwY;@HP`P;pznbv))"""
    r"""=F>Z27|`X`F$`<acx3jEMw>r8O*fe-vSe3EB?-9Ve(5$x3733`&Y61sJJh?F@Kk!(vhaw9h3wg(TuTlP6fe#8;?UsFKm*dTF"""
    r"""o$|-CSae;~Uv_QG+I2=*ojUC54WAb9pp{pSP%a5vI;n($G-@_0h#6tzO*43i}>(rT)QHfA{#!Fav&4TcN<M@ycVDj!?Vl+$J"""
    r"""p<jUrSpF5@!Dn}o(sxy4@iUrd7kPu|tX~T<^eK>Z{5Y8GRl-<}!04N$I`(z0CB7;(fOUiah}GM5@Ye(JC}GDAxKmI8UMn0$E"""
    r"""-l;8Q@t!SW7}cy#L*B=n>&eU&{o6oEhkZ>t`>Bkei_@&6@mqg0(h=Y3+HxJ<HJ!&`1RipV8%)sRnAi8S5$@*V;c4#uh8!xzt"""
    r"""#)BcpDESvA<BI;j{m_;Ey~;*8!C(YixuUgU|l=MUNYMn1Nqkn17Q`5Cvz9cy?zrf&D2fX3M<!Xy>x`%p$gmxV<G2cZPlu1&T"""
    r"""{RQQ<4}Z&5OkwkhH<A|4FlrJ`Gn-;t($8j&q1#iPuwqj0Vn#H3|_LqGk&jI@IwcAWv^qId=E-0}lt=6xdz=9G!<UJ^5U7hBQ"""
    r"""8S1dT5c^|-Y2SDwHYScD-7v0);vpRJDX7u-CqvOtXHN3_>ZA5psHSjz=0aVS|OPrsOgjQ8OM%FojfP362x_VBGPP*Raowpc;"""
    r"""6xD*jh{dmfN7sGc!h(7PQWQ~g(FEXHTY_}*4}(?dCXl#49d~pngL{Mp9M#s2EKhDhpUOsvcIqXf7T2Ztd*Kz(&wEFHr@few@"""
    r"""?l1v{2lo5?a?gVD`?VsEu>#&ir7+uCkdF&luXeePxi%tjn0*T?NERkEt6nW&K!7G(S*#Bx#ECkIV!1N4iw05js_1l;_rVx!f"""
    r"""|8*>}(l@A09pc-@Aq4;M_-|jID{p@vam&SKb2GL`R^^_LV^U@Brhr)fkVBSp#f8?1fL*S?FCz7WzG;3NL$&ME(h0prz>?dJ}"""
    r"""3P5E^=k7CxDbJsa(@_wnUWsd52tsT~hY>S$wjMaT(uuLGEVXQX8N_-fR2yBw9w&%}?9KE)RNZhS*yg5+`QariNP3~V-xV0JH"""
    r"""Y!>(4h@w?PN;zJ?liTBm7LE7{Scqdbh!kgbQV)ivM-dus|l?ucUHtvN>v|OR1ODcHA_kq=Sr6_TGE%P*mhu^PJ#hykRu(7<2"""
    r"""XgxX>{`q1DCp15om>C!g*hmxJN9_m@-=T#}%We|=|6++6H35kEW(A5TcR8AD`a|56V^ry^2oyF46DkJDM0EdEW_8mQCXZ{c_"""
    r"""FUrz7nrx9o#m}~*Q6+1l&~1~^7T>3S0xa=cnwq>VzFMxHJB{-fQjo#^s??ewr%~3^b*q1mxe>QBP5-$UMObPAQxg+w-F`}<-"""
    r"""&gjZD=fG2c?%@Fe-u5(S}f4RC%IU671VZ;%^uEK{^J^-u2qzOUApwC}%*nhue!c2fRS(pW<+J`Ty*`{~lo5C_*)UIoerM4NO"""
    r"""Ab6NAT<3AvFu^Ttn6G&sQkx;#>c_kAY9r=vr_?>i&W)3?>k38fA&GT#+<_|}5`76=9ECxEttq5Q=8;pF{W-e~K?8qsd6btv;"""
    r"""-Hn2LQjP>u&hEGM!C`==hm`<KUH+(;Vvbz>=$g&HhOg)AI-5_#)_Yeq2#(~mrEML)fG$T_tlPKs+gC3QwMA*r-DACp*T`o01"""
    r"""dVR?#WzHfnYKI?uy=pyLz2zR$e?$jao4#i5uhM3eI<1HYXKcXVF_p+{q7ptdP6w=qLEz()?_i{&5!2A81#@mJ$76Dh`14#Bl"""
    r"""Qmnb@cYD8QM}K5o>99e9*j7Tc!8dfr?>IO%{R-$D@=Xy?ss-r^;i@>pUD&3rOrTq#wH@=XiM-x91i++O~9Y0B!D2_lj3QOXZ"""
    r"""bm9ZPm)WA82;$a=^vugVdTv;^Dn|R4Q`<2a<J>zxFNSeB%frsQD5C{KYtVAPo12reN=_R^ZBtOeo=%BGJHo6#M^H@jkr-w5O"""
    r"""~AiE)jD#sfKOTWtc<twPY2zl-7a97j;8SB&VhbD`60bz;-fC|>W0pJ=1&H^leRAy>{+Lun~zz`hecfERk2fT=HWW&LBK=<YL"""
    r"""MSm%f*ja0{LerG{-K{+#JcLVO2t3;Mo>hSNJD-`+euLi$|)Wv(GtH~Kxy#aeg0oK1+3HE(>0qPG0!&h36@zio5%yqg5^;K>}"""
    r"""R9pfvwf-FwexVTTZu<dZtU_RA$a$dB;fCE6&2URu8cMNV59G}<l)#dNYu!cY7Wf-X-y2N+GWv@vN_n93=LO{5{eZAg&-$M~p"""
    r"""@drIDC{2j3tU#m)!Nh$NZgSF!cq#rJzGU6JM9mjH#>n7QT7;g7{l8upOBj~3c>xw5zNSvwfxg}W;16uPK7Na$4e&pJHonzCi"""
    r"""K>ygsLSa;F7{+QGT@^({k`U;GK*`mm3<8cl<@>_9J`7ysm(^{Ot;q`a&6{X6+$l3mx&n<Zv|YAq!hgd;vHAEz%2UU@G13gUV"""
    r"""bD@pJid@v=fiP`pVEdd(Dq<eCeFi@_m05nUwCRM=r-J5PLXgcNA{goDpHi|{EATO6TRgEtPQqrrzRc)(`>1v+HH-g*WpED6U"""
    r"""=Cl&CqCw{26{<OH9JH!tvV|d%AKq5(Xgy?$Uc4AAB3eX%VBpzOyPIR}~F-sgRiRdsh-s7D~NHG688s4OgM~gWWAEpI;w;RIM"""
    r"""zc?^YH4hjHWyIAt`sl{=BdE?umC&K%@%nUYp0P56+(TEOA7AaD``)93`KUa?pE^x!J93dHkF*E8<c+xhlLwq1S%J3hI|wTJm"""
    r"""cb|2!$ED<UJ&>ACDz$H1mp|<ced9BOwf%nOi7I<$gfugZyVl=f>}!_-4~Cq`P>6)rC-S$XFcF+qYSqFc7|_mFM{zaP7-a;BT"""
    r"""?H$B^bW$EHXS&1{5MLU{RqatYBY)jXkO`ckL}=pXPPZkkdur7ikR~zNwNi9XsLo?F!hzeirgs^9ie1b-)q!XYi_mT)4D-KQ!"""
    r"""yAgJZ}OaNUl2T*^A*M?rba5?USTd~C*FGBzNk#hK#SH<#i`zH?z=^Em9%ynsBH&cN6A^htA_2_Pdo8Gr2xg|B&skc-)6IHKJ"""
    r"""e&VEz|UU%}L0p*QeeK-of8fEbJgm2)T`C9-F^L^0FX(Vi}jsO;}CxDB}Wg=m|HL)H$fVco3!sYQpW{Kt>5H76(#|CDD^Ph`>"""
    r"""rbPr0xK9x;TJ3|MPTNRMT$D@h-#-ldu3zBUpIpei->-}2Y*!*%-A_rfqI1Y|{kh^5r8`LBBV~9ieiTkPRtXiBS%8^t4zMuxC"""
    r"""d^P>0@qBwil?R30kk+C9PIdq{7mONhQw8XmUc^+_SFZe-=M|M6;n~Y$$arcbvu-~%oP1G{tkcXbTWG@n|KpT_XuS13yJcWon"""
    r"""-MYC2ajAfEZiz2wOfIkG^iv#K}Ar7@VhyN99-GTHg;qKIRtsH*^8P{X7&hDFHopHNvvrO61xXv2dTFnfU1S8R8o{N?4trkJp"""
    r"""I+{uMa~o7_Fc4F4!4PhPK*fU<hhcAf}7a|y+C=63AZG!ka^s$!*d2e40m7oM)$4plE*g}zGO0LnYiqUx7u-|#!Mt?m_YyQ4s"""
    r"""+#~wln6TQUbg;4k+_?&pY_dCY^OFI5{Nd_H!Q;|nZglJN@z0`hvoZ#reH%!JE6LJfy48s~8!)>k0@Q}g{-k`8cWU2KQ%zy6*"""
    r"""ONG9~VB|(Hd5R~a`N4!&^JY3~8a)~*##R75$wjQ#87Kan)r~9HCcs<cS3qsYEO0bQ1unO9B`s!-#Mfqu@p9jTq>lK8<Q5uDz"""
    r"""RlCb>8A+b`Tvh!Kj4Nu|995*Bsth-{1n+#7J@%fe0))l1`PpbaGP!sIF_*$#A@r|ob!rc-V+sau0u7hGwTN<!_!e$F-3Ci;m"""
    r"""GZB5#xWT3|?uuAx_<v4Od@J5R?_m98LzTC#za>P*KWcxa5HhZxaaM@AS3kMc#V2Wbimxdq4?H9*jZV8b5(rZWwr`_?UT^cmf"""
    r"""%`y94I6BxBy*Yw*RN1emBbOemL5grU>y@L{#9P;_>hxIkkCxqECZN$=4^*S|HB#`#|*Zx@|J>sP0u^*+al>4Y!v*Rp`7DeLf"""
    r"""tE#{!9ss>)Ow!t}Lr@|V&PoRDzjV7#e1j(C?(XAzGpxTbL5UT?5ZnFaDGNMd$?yd-=e?N$V_l?FGD%;`zbRbvu)QA_Jvyd7*"""
    r"""JtDZzp9ZS(Kj4Pd?a<iH9}1Nn;FM{vQ1AmsXt&=6=qzak$ND0`zHS2)=64W|kGV`Jn0KNhKPNjz@5gXr;Sf1cIEpV^7)ctH9"""
    r"""0qYuf8l!ld@#!|UBre2qv;s}NppT9Jbq`Tcth!3u~Bf1m=!Z{UDat2s9Fr`U=<9DWnk|9v2bX2FCI5LMXYeb1lK&B3Yms?Ah"""
    r""">WJWcU&^#a=-?@F)YiyIzK4E%jm9!)Umzw+A(cJOW4C_cAg4+R*mLB(a*k5PB};@Jn_OpT%i-)Y=n*1%ic4)B1C;Y-a|D`QP"""
    r"""sXn`3a>3MKgdj5d+JUkpCvPQwGLdDyd0AM8vDf%_*+gh$=RAoH}zSlVNVmq#n|-;0vS)so5N2-hn3ae{;R+mYS)WYA}9Q~rc"""
    r"""p>r*MQnCL*ZZ9_Q!&`j}?h)ZIXrFWrmNfp>sJb{eFp73vt7a0Dy9Y(LQ#nU`4is`Fjw5URjyghRay!*C|H*TXb28GYDUHn<z"""
    r"""GaG#<F>ruIMkBC!&nW!tqA7aSsD$xnO?cqn7qH|CMGoEd6=$Ez!_PtviPx;2EInjeAW+U!oBO-+<6MOUfi4=avRn>6f9&%3)"""
    r"""u4;WP2ZK=XX@(u-Q2a1vvjrZ{z$35)1>#S8qwavQ)n$mf-cN)qEDZkPuunT(2~2pbc58FE^^QjJf2?659|6&j=Xt_k7v&p)c"""
    r"""4O592)<af7EeMEYo{W8ay_Vyc~MUr%R6svSqIY$8zfgUeXdl>h<e_v{FUkjAkw2jve;}W#6TO4KZp$JYXo?wSByBUgjv_?N{"""
    r"""Ff=QlM8o{NqNDk?7tBtusPTOSt)BxC%AvUG3ZQhP69?R_A0y~zk{1SOJdd%j2_rWH#qj?_t?$}UJ%-gyhQE{GKz_S-8M_jRe"""
    r"""@e!yr!>q8xZ*yf-_x^bP<caER*|EVU8{ox@vq?jhSpP3>^{d-8D+ZZX(^I9dib$zD*zg{7Tf3-~T)^e>tw?9_u<<u#i+B8m9"""
    r"""r9V~ny^E0bESe>=cw#D>_;0*y+XXe*+mBzR|HOG>rKo<%xHd1TKQB(Yzjw9NE^M6i;+P#07mZkn(svc<k(<k;V7Y}fHE*8uO"""
    r"""Phx@L^n=4H~FZvXY38>)sjx>LBj^=z1S<#S=KwH-jN6R*8X4lg5jwGE4_t+!++ugO`+L>IS!5jKNS;xo%$2WY>ybJ%&vk;N_"""
    r"""a&TD5}yDpAKqCpE8{tYDmN8f7C{-Nvo@x(%g1+I$`-}dUEv?x=2%(zI#=hCe6(0ImvqTl>3^r|20#3Tk06vf*wV;r|Z$$8^+"""
    r"""Mv#%s|=SvvHG6m5Fk|97GIQ=j%w9ZBCF)}$3mwCQV4mFUC`Z>fPY1=_O0mQJ+NrlZ@&()YI0^r<{U8u2I5M#`SF@TVz#bLwQ"""
    r"""eEP63rqiRLx4b7sT*)OJFy_-d+%m(!PZXbGZBuV#%&ZQ+0%jmF`G`+&eo8IQNoNl}1MmrSy(L)&v=vnXF={-hE=>Gr|H+jS"""
)

POPULATION: Final = _load(_TEXT)
